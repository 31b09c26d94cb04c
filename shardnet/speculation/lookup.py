"""Guesses by look-up: what came the last time behind the tokens that came last. Pure.

Editing, summarising and answering about a text repeat much of it. The longest end of the conversation that was there
before, of at most `LONGEST` tokens, says what comes next; the newest such place counts. From there on the conversation
repeats itself at one *distance*, as long as that is right.
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
        self._end: tuple[int, ...] = ()
        """The last `LONGEST` ids."""
        self._ends: list[dict[tuple[int, ...], int]] = [{} for _ in range(SHORTEST, LONGEST + 1)]
        """By size: behind which token each run of tokens stood last, as the position of the one that came next."""
        self.distance = 0
        """What comes next is what stood so many tokens before it; 0 where nothing says what comes next."""
        self.strength = 0
        """So many of the last tokens speak for it: each was what stood there."""

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, token_id: int) -> None:
        """The next token."""
        position = len(self._ids)
        is_right = self.distance > 0 and self._ids[position - self.distance] == token_id
        for size, ends in enumerate(self._ends, SHORTEST):
            if position >= size:
                ends[self._end[-size:]] = position
        self._ids.append(token_id)
        self._end = (*self._end[1 - LONGEST :], token_id)
        if is_right:
            self.strength += 1
        else:
            self._look_up()

    def _look_up(self) -> None:
        self.distance = self.strength = 0
        end = len(self._ids)
        for size in range(min(LONGEST, end), SHORTEST - 1, -1):
            position = self._ends[size - SHORTEST].get(self._end[-size:])
            if position is not None:
                self.distance, self.strength = end - position, size
                return
