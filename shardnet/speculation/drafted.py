"""Guesses of a small model elsewhere: what it has offered of one conversation, and is not known to be wrong. Pure.

How far that goes ahead is for whoever offers it to decide (`depth`).
"""

from __future__ import annotations

from collections.abc import Sequence

from shardnet.speculation.ahead import Ahead


class Drafted:
    """Of one session, at the ring's first stage. In the place of a `Guesser`."""

    def __init__(self) -> None:
        self._ahead = Ahead()

    @property
    def num_known(self) -> int:
        """Tokens that it has been told."""
        return self._ahead.num_known

    def know(self, token_ids: Sequence[int]) -> None:
        """These come next, and are no guesses."""
        self._ahead.know(token_ids)

    def offer(self, position: int, before: int, ids: Sequence[int]) -> int:
        """See `Ahead.offer`."""
        return self._ahead.offer(position, before, ids)

    def guess(self, most: int) -> list[int]:
        """What comes behind all that is known, up to `most` tokens."""
        return self._ahead.take(most)

    def give_up(self) -> None:
        """There are no guesses any more, neither here nor in flight."""
        self._ahead.give_up()
