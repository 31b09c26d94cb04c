"""How often something may happen: buckets of tokens, which fill at a pace. Pure; time is handed in."""

from __future__ import annotations

import math
from typing import NamedTuple


class Pace(NamedTuple):
    """Of a bucket: what comes into it, and what it holds."""

    per_s: float
    at_once: int


class Bucket:
    """Full at first. Kept as the time at which it is full again, so that nothing is lost to rounding."""

    def __init__(self, pace: Pace) -> None:
        self._token_s = 1 / pace.per_s
        self._others_s = (pace.at_once - 1) / pace.per_s
        self._full_s = -math.inf

    @property
    def free_s(self) -> float:
        """From when on there is a token."""
        return self._full_s - self._others_s

    def is_full(self, now_s: float) -> bool:
        """Whether it is as it was at first."""
        return self._full_s <= now_s

    def take(self, now_s: float) -> None:
        """Take a token, which is there."""
        self._full_s = max(self._full_s, now_s) + self._token_s

    def give_back(self) -> None:
        """Nothing has happened."""
        self._full_s -= self._token_s


class Buckets:
    """By name, all of one pace. Those that are full take no memory for long.

    Args:
        most: so many are looked through for full ones when there is another one.
    """

    def __init__(self, pace: Pace, most: int = 256) -> None:
        self._pace = pace
        self._most = most
        self._there: dict[str, Bucket] = {}

    def free_s(self, name: str) -> float:
        """From when on there is a token."""
        there = self._there.get(name)
        return -math.inf if there is None else there.free_s

    def take(self, name: str, now_s: float) -> None:
        """Take a token, which is there."""
        if name not in self._there:
            if len(self._there) >= self._most:
                self._there = {other: each for other, each in self._there.items() if not each.is_full(now_s)}
            self._there[name] = Bucket(self._pace)
        self._there[name].take(now_s)

    def give_back(self, name: str) -> None:
        """Nothing has happened."""
        if name in self._there:
            self._there[name].give_back()

    def __len__(self) -> int:
        return len(self._there)
