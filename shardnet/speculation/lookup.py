"""Guesses by look-up: what came the last time behind the tokens that came last. Pure.

Editing, summarising and answering about a text repeat much of it. The longest end of the conversation that was there
before, of at most `LONGEST` tokens, says what comes next; the newest such place counts. From there on the conversation
repeats itself at one *distance*, as long as that is right.

Places where the same two tokens stood are chained, the newest one first, in arrays: no object is made for a token.
"""

from __future__ import annotations

from array import array

LONGEST = 4
SHORTEST = 2
"""One token alone is followed by nearly anything."""
MOST_PLACES = 32
"""So many of a chain are looked at: where the last two tokens have stood more often, older ones count no more."""
_SPREAD = 0x9E3779B1, 0x85EBCA6B
"""By which pairs of ids are spread over the chains."""


class LookUp:
    """An index of one conversation's ids, in 12 to 16 bytes a token. Takes a constant time for each token.

    Args:
        most_tokens: that the conversation can have; with more it takes longer.
    """

    def __init__(self, most_tokens: int) -> None:
        self._ids = array("i")
        self._newest = array("i", [0]) * (1 << max(most_tokens - 1, 0).bit_length())
        """Of each chain: behind which tokens a pair of it stood last, as the position of the one that came next; 0
        where none did. As many as there may be tokens, and a power of two.
        """
        self._before = array("i")
        """Of each position: the one before it in its chain."""
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
        self._chain(position)
        self._ids.append(token_id)
        if is_right:
            self.strength += 1
        else:
            self._look_up()

    def _chain(self, position: int) -> None:
        """The token of that position comes behind the last two."""
        if position < SHORTEST:
            self._before.append(0)
            return
        chain = self._chain_of(position)
        self._before.append(self._newest[chain])
        self._newest[chain] = position

    def _chain_of(self, position: int) -> int:
        """In which chain the two tokens before a position are."""
        mixed = self._ids[position - 1] * _SPREAD[0] ^ self._ids[position - 2] * _SPREAD[1]
        return (mixed >> 12) & (len(self._newest) - 1)

    def _look_up(self) -> None:
        self.distance = self.strength = 0
        ids, end = self._ids, len(self._ids)
        if end < SHORTEST:
            return
        place, last, before_last = self._newest[self._chain_of(end)], ids[-1], ids[-2]
        for _ in range(MOST_PLACES):
            if not place:
                return
            if ids[place - 1] == last and ids[place - 2] == before_last:
                size = SHORTEST
                while size < min(LONGEST, place) and ids[place - 1 - size] == ids[end - 1 - size]:
                    size += 1
                if size > self.strength:
                    self.distance, self.strength = end - place, size
                    if size == LONGEST:
                        return
            place = self._before[place]
