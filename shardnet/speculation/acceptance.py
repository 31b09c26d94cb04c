"""How likely a guess is to be right, by what speaks for it, as it turns out in one conversation. Pure.

The *kind* of a guess is how many tokens speak for it (`lookup`); `DRAFTED` where a model does. How likely it is to be
right is meant for the case that all before it are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

DRAFTED = 0
"""The kind of what another model has guessed."""
_FROM = (1, 2, 3, 4, 5, 7, 10, 16, 32)
"""Kinds from each of these on, up to the next, are counted together."""
_BEFORE = (0.7, 0.15, 0.5, 0.65, 0.72, 0.8, 0.85, 0.88, 0.92, 0.95)
"""How likely each is taken to be right at first: of `DRAFTED`, and of these."""
_WEIGHT = 4.0
"""That counts as so many guesses."""
_KEPT = 0.98
"""What was seen counts less with each that comes: a conversation may come to another part of a text."""


class Acceptance:
    """Of one conversation."""

    def __init__(self) -> None:
        self._seen = [_WEIGHT] * len(_BEFORE)
        self._right = [_WEIGHT * each for each in _BEFORE]

    def note(self, kind: int, *, is_right: bool) -> None:
        """A guess of this kind was right, or was the first wrong one."""
        group = _group(kind)
        self._seen[group] = self._seen[group] * _KEPT + 1
        self._right[group] = self._right[group] * _KEPT + is_right

    def chance(self, kind: int) -> float:
        """Above 0 and below 1."""
        group = _group(kind)
        return self._right[group] / self._seen[group]


def _group(kind: int) -> int:
    return bisect_right(_FROM, kind)


def following(kind: int) -> int:
    """What will speak for the guess behind one of this kind, as long as that is right."""
    return DRAFTED if kind == DRAFTED else kind + 1


def chances_of(acceptance: Acceptance, kinds: Sequence[int], most: int) -> list[float]:
    """Of guesses that wait, and of those that would go on behind them, in all so many."""
    chances = []
    kind = kinds[0] if kinds else DRAFTED
    for index in range(most):
        kind = kinds[index] if index < len(kinds) else following(kind)
        chances.append(acceptance.chance(kind))
    return chances
