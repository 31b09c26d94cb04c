"""What is guessed of one conversation ahead of what is known: guesses in flight, and guesses that wait. Pure.

    known        tokens that were sampled, or are of the prompt
    in flight    guesses that went round behind them, and of which nothing is known yet
    waiting      guesses that come next, as long as all before them are right

Guesses are offered from wherever they come, each with its position and a digest of all tokens before it: what goes on
from another text than what stands here is not taken, in whatever order offers come and however late. What has become
known drops all guesses from the first wrong one on.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from shardnet.speculation.acceptance import DRAFTED
from shardnet.transport.listener_messages import digest

MOST_WAITING = 64
"""Guesses that wait: others are not taken."""
OLDEST = 256
"""An offer may begin so many tokens before the last one that is known."""


class Ahead:
    """Of one session, at the ring's first stage. Positions count all its tokens, the prompt's included."""

    def __init__(self) -> None:
        self._ids = array("q")
        """Known, in flight, waiting."""
        self._digests = array("L", [0])
        """Before each of the last of them, and behind the last."""
        self._kinds = array("l")
        """Of the guesses."""
        self._known = 0
        self._sent = 0

    @property
    def num_known(self) -> int:
        return self._known

    @property
    def num_in_flight(self) -> int:
        return self._sent - self._known

    @property
    def num_waiting(self) -> int:
        return len(self._ids) - self._sent

    @property
    def end(self) -> int:
        """The position behind all guesses."""
        return len(self._ids)

    @property
    def digest(self) -> int:
        """Of all tokens and guesses: what is offered behind them goes on from this."""
        return self._digests[-1]

    def __getitem__(self, position: int) -> int:
        """The token, or the guess, that stands there."""
        return self._ids[position]

    def kind(self, position: int) -> int:
        """Of the guess that stands there."""
        return self._kinds[position - self._known]

    def know(self, ids: Sequence[int]) -> int:
        """These come next, and are no guesses. Returns how many of them were guessed, waiting ones included."""
        num_right = 0
        for index, token_id in enumerate(ids):
            if self._known + index == len(self._ids) or self._ids[self._known + index] != token_id:
                break
            num_right += 1
        self._known += num_right
        del self._kinds[:num_right]
        if num_right < len(ids):
            self._cut(self._known)
            self._append(ids[num_right:])
            self._known = self._sent = len(self._ids)
        self._sent = max(self._sent, self._known)
        self._forget_digests()
        return num_right

    def offer(self, position: int, before: int, ids: Sequence[int], kinds: Sequence[int] | None = None) -> int:
        """Guesses from `position` on. What is known or in flight among them must be what stands here.

        What waited is replaced from the first token on that is another one.

        Args:
            before: the digest (`listener_messages.digest`) of all tokens before them, those of the prompt included.
            kinds: of each, what speaks for it (see `acceptance`); another model where None.

        Returns:
            How many wait that did not before.
        """
        first = len(self._ids) + 1 - len(self._digests)
        if not first <= position <= len(self._ids) or self._digests[position - first] != before:
            return 0
        index = 0
        while index < len(ids) and position + index < len(self._ids) and self._ids[position + index] == ids[index]:
            index += 1
        at = position + index
        if index == len(ids) or at < self._sent:
            return 0
        self._cut(at)
        new = ids[index : index + max(0, self._sent + MOST_WAITING - at)]
        self._append(new)
        self._kinds.extend([DRAFTED] * len(new) if kinds is None else kinds[index : index + len(new)])
        return len(new)

    def take(self, most: int) -> list[int]:
        """The next ones that wait, up to `most`: they are in flight from now on."""
        end = min(self._sent + max(most, 0), len(self._ids))
        taken = self._ids[self._sent : end].tolist()
        self._sent = end
        return taken

    def give_up(self) -> None:
        """There are no guesses any more."""
        self._cut(self._known)
        self._sent = self._known

    def _append(self, ids: Sequence[int]) -> None:
        num_quiet = max(0, len(ids) - OLDEST)
        if num_quiet:  # a prompt: nobody goes on from its midst
            self._ids.extend(ids[:num_quiet])
            self._digests = array("L", [digest(ids[:num_quiet], self.digest)])
        for token_id in ids[num_quiet:]:
            self._ids.append(token_id)
            self._digests.append(digest((token_id,), self.digest))

    def _cut(self, end: int) -> None:
        """Have no token from there on."""
        num_gone = len(self._ids) - end
        if num_gone:
            del self._ids[end:]
            del self._digests[-num_gone:]
            del self._kinds[max(end - self._known, 0) :]

    def _forget_digests(self) -> None:
        num_kept = len(self._ids) - self._known + OLDEST + 1
        if len(self._digests) > 2 * num_kept:
            self._digests = self._digests[-num_kept:]
