"""How much memory the stages of one device may reserve together, and of that the KV caches of each model.

Caches of an old and a new stage of one model take from the same budget: what is counted is what sessions hold, wherever
they hold it. Weights take from the whole. What is only kept in case it is of use again is reserved, too, and *spare*:
whoever needs memory has it, the least recently used first. Safe to use from several threads.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Hashable
from typing import NamedTuple, Protocol


class Room(NamedTuple):
    """What is left of a budget, with what is spare, and the whole of it. Bytes."""

    free_bytes: int
    limit_bytes: int


class Spares(Protocol):
    """What somebody keeps in case it is of use again. Asked under the budget's lock."""

    def least_recent(self) -> int | None:
        """When the oldest of it was used last, by `MemoryBudget.tick`; None where there is nothing."""

    def give_up(self) -> None:
        """Give up the oldest of it, and what it has reserved."""


class MemoryBudget:
    """
    Args:
        limit_bytes: None for no limit.
        whole: the budget that this one is a part of: what is taken here is taken there, too.
    """

    def __init__(self, limit_bytes: int | None = None, whole: MemoryBudget | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.reserved_bytes = 0
        self.spare_bytes = 0
        """Of what is reserved."""
        self._whole = whole
        self.lock: threading.RLock = threading.RLock() if whole is None else whole.lock
        """One for the whole and all its parts. Held also by who has spares, while these change."""
        self._parts: weakref.WeakValueDictionary[Hashable, MemoryBudget] = weakref.WeakValueDictionary()
        self._spares: weakref.WeakSet[Spares] = weakref.WeakSet()
        self._ticks: itertools.count[int] = itertools.count() if whole is None else whole._ticks

    def part(self, name: Hashable, limit_bytes: int) -> MemoryBudget:
        """The budget of one model's caches; one for all who ask by the same name, and the last limit holds."""
        with self.lock:
            part = self._parts.get(name)
            if part is None:
                part = self._parts[name] = MemoryBudget(limit_bytes, self)
            part.limit_bytes = limit_bytes
            return part

    def reserve(self, num_bytes: int) -> bool:
        """Take so much, here and of the whole; False where it does not fit, and nothing is taken."""
        with self.lock:
            if num_bytes > self.room().free_bytes and self.is_limited:
                return False
            for budget in self._chain():
                budget._free_spares(num_bytes)
            for budget in self._chain():
                budget.reserved_bytes += num_bytes
            return True

    def release(self, num_bytes: int) -> None:
        """Give so much back."""
        with self.lock:
            for budget in self._chain():
                budget.reserved_bytes -= num_bytes

    def spare(self, num_bytes: int) -> None:
        """So much of what is reserved is spare from now on; below zero: is needed again."""
        with self.lock:
            for budget in self._chain():
                budget.spare_bytes += num_bytes

    def register(self, spares: Spares) -> None:
        """From now on `spares` is asked when memory is needed, for as long as somebody holds it."""
        with self.lock:
            for budget in self._chain():
                budget._spares.add(spares)

    def tick(self) -> int:
        """The present moment: later ones are larger."""
        return next(self._ticks)

    @property
    def needed_bytes(self) -> int:
        """What is reserved and not spare."""
        with self.lock:
            return self.reserved_bytes - self.spare_bytes

    @property
    def is_limited(self) -> bool:
        return self.limit_bytes is not None or (self._whole is not None and self._whole.is_limited)

    def room(self) -> Room:
        """Of this budget or of the whole, whichever has less; nothing where neither has a limit."""
        with self.lock:
            rooms = [] if self._whole is None or not self._whole.is_limited else [self._whole.room()]
            if self.limit_bytes is not None:
                rooms.append(Room(max(self.limit_bytes - self.needed_bytes, 0), self.limit_bytes))
            return min(rooms, default=Room(0, 0))

    def _chain(self) -> list[MemoryBudget]:
        """This one, and those that it is a part of."""
        return [self] if self._whole is None else [self, *self._whole._chain()]

    def _free_spares(self, num_bytes: int) -> None:
        """Have spares given up, the least recently used first, until so much is free here."""
        while self.limit_bytes is not None and self.reserved_bytes + num_bytes > self.limit_bytes:
            oldest = [(used, spares) for spares in self._spares if (used := spares.least_recent()) is not None]
            if not oldest:
                return
            min(oldest, key=lambda each: each[0])[1].give_up()
