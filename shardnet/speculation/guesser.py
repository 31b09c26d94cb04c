"""What is guessed of one conversation, and how much of it: more where guesses were right, nothing where they never are.
Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from shardnet.speculation.ahead import Ahead
from shardnet.speculation.lookup import LookUp

DRAFT = "draft"
WAYS = ("off", "lookup", DRAFT)
"""How tokens can be guessed, as users say it."""
FIRST = 4
"""So many tokens are guessed at first."""
MOST = 16
"""And so many where all were right."""
MOST_RESTS = 64
"""After guesses in vain, so many tokens are passed over at most."""


class Guesser:
    """Of one session, at the ring's first stage."""

    def __init__(self) -> None:
        self._index = LookUp()
        self._ahead = Ahead()
        self._width = FIRST
        self._rests = 0
        """So many times nothing is guessed."""
        self._next_rests = 1

    @property
    def num_known(self) -> int:
        """Tokens that it has been told."""
        return len(self._index)

    def know(self, token_ids: Sequence[int]) -> None:
        """These come next, and are no guesses: by them those in flight are judged."""
        num_guessed = self._ahead.num_in_flight
        num_right = self._ahead.know(token_ids)
        if num_guessed:
            self._judge(min(num_right, num_guessed), num_guessed)
        for token_id in token_ids:
            self._index.add(token_id)

    def offer(self, position: int, before: int, ids: Sequence[int]) -> int:
        """Guesses from elsewhere: see `Ahead.offer`."""
        return self._ahead.offer(position, before, ids)

    def guess(self, most: int) -> list[int]:
        """What comes behind all that is known, up to `most` tokens; nothing where that does not seem to pay."""
        if self._rests:
            self._rests -= 1
            return []
        most = min(most, self._width)
        self.offer(self._ahead.end, self._ahead.digest, self._index.guess(most)[0])
        return self._ahead.take(most)

    def give_up(self) -> None:
        """There are no guesses any more, neither here nor in flight."""
        self._ahead.give_up()

    def _judge(self, num_right: int, num_guessed: int) -> None:
        if num_right == 0:
            self._rests, self._next_rests = self._next_rests, min(2 * self._next_rests, MOST_RESTS)
            self._width = FIRST
        else:
            self._next_rests = 1
            self._width = min(2 * self._width, MOST) if num_right == num_guessed else max(num_right + 1, FIRST // 2)
