"""Guesses by look-up: what came the last time behind the tokens that came last. Pure.

Editing, summarising and answering about a text repeat much of it. The longest end of the conversation that was there
before, of at most `LONGEST` tokens, says what comes next; the newest such place counts.
"""

from __future__ import annotations

from array import array

LONGEST = 4
SHORTEST = 2
"""One token alone is followed by nearly anything."""


class LookUp:
    """An index of one conversation's ids. Takes a constant time for each token."""

    def __init__(self) -> None:
        self._ids = array("q")
        self._ends: list[dict[tuple[int, ...], int]] = [{} for _ in range(SHORTEST, LONGEST + 1)]
        """By size: behind which token each run of tokens stood last, as the position of the one that came next."""

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, token_id: int) -> None:
        """The next token."""
        position = len(self._ids)
        for size, ends in enumerate(self._ends, SHORTEST):
            if position >= size:
                ends[tuple(self._ids[position - size : position])] = position
        self._ids.append(token_id)

    def guess(self, most: int) -> tuple[list[int], int]:
        """What may come next, up to `most` tokens, and how many of the last tokens speak for it: 0 where none do."""
        end = len(self._ids)
        for size in range(LONGEST, SHORTEST - 1, -1):
            if end < size:
                continue
            position = self._ends[size - SHORTEST].get(tuple(self._ids[end - size :]))
            if position is not None:
                return self._repeated(position, most), size
        return [], 0

    def _repeated(self, position: int, most: int) -> list[int]:
        """What stands from there on, and again from there on where the conversation ends before that."""
        known = self._ids[position : position + most].tolist()
        while known and len(known) < most:
            known += known[: most - len(known)]
        return known
