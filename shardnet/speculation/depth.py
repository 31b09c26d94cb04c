"""How far a draft goes ahead of what is known of an answer: as far as its tokens are likely to be right. Pure.

A token is of use only where all guesses before it are right. Where n of N tokens agree, the one at depth d is right
with a chance of (n/N)^d; below `LEAST_CHANCE` it is not worth its time at the source, nor its place in the ring.
"""

from __future__ import annotations

import math

MOST = 16
"""No answer is guessed further ahead."""
LEAST_CHANCE = 0.2
LEAST_AGREEMENT = 0.15
"""Where fewer tokens agree, it rests after each wrong one."""
FIRST_AGREEMENT = 0.7
MEMORY = 24
"""Of so many tokens the agreement is remembered."""
MOST_RESTS = 64


class Depth:
    """Of one answer."""

    def __init__(self) -> None:
        self.agreement = FIRST_AGREEMENT
        """The share of guesses that were right where all before them were."""
        self._rests_until = 0
        self._next_rests = 1

    def most(self, num_known: int) -> int:
        """So many tokens at most are guessed ahead of so many that are known: none while it rests."""
        if num_known < self._rests_until:
            return 0
        if self.agreement >= LEAST_CHANCE ** (1 / MOST):
            return MOST
        return max(1, int(math.log(LEAST_CHANCE) / math.log(max(self.agreement, 1e-6))))

    def judge(self, is_right: bool, num_known: int) -> None:
        """The guess behind so many tokens was right, or not."""
        self.agreement += (is_right - self.agreement) / MEMORY
        if is_right:
            self._next_rests = 1
        elif self.agreement < LEAST_AGREEMENT:
            self._rests_until = num_known + 1 + self._next_rests
            self._next_rests = min(2 * self._next_rests, MOST_RESTS)
