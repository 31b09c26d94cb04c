"""Those who wait to be looked at, by where they come from: nobody keeps the others out by sending many. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Crowds(Generic[T]):
    """In the order in which they came.

    Args:
        most_of_one: so many of one crowd at the same time.
        most: so many of all; None for no limit.
    """

    def __init__(self, most_of_one: int, most: int | None = None) -> None:
        self._most_of_one = most_of_one
        self._most = most
        self._there: dict[T, str] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._there))

    def add(self, one: T, crowd: str) -> T | None:
        """It has come, or turns out to be of another crowd. Returns who makes room for it, who is not there any more:
        the first of its crowd where there are too many of that, or of the largest where there are too many of all."""
        self._there[one] = crowd
        sizes = Counter(self._there.values())
        if sizes[crowd] > self._most_of_one:
            return self._take_first_of(crowd)
        if self._most is not None and len(self._there) > self._most:
            return self._take_first_of(sizes.most_common(1)[0][0])
        return None

    def remove(self, one: T) -> None:
        """It was looked at, or is gone. Safe to call twice."""
        self._there.pop(one, None)

    def _take_first_of(self, crowd: str) -> T:
        first = next(one for one, of in self._there.items() if of == crowd)
        del self._there[first]
        return first
