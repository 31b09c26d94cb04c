"""How much memory the stages of one device may reserve together, and of that the KV caches of each model.

Caches of an old and a new stage of one model take from the same budget: what is counted is what sessions hold, wherever
they hold it. Weights take from the whole. Safe to use from several threads.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from typing import NamedTuple


class Room(NamedTuple):
    """What is left of a budget, and the whole of it. Bytes."""

    free_bytes: int
    limit_bytes: int


class MemoryBudget:
    """
    Args:
        limit_bytes: None for no limit.
        whole: the budget that this one is a part of: what is taken here is taken there, too.
    """

    def __init__(self, limit_bytes: int | None = None, whole: MemoryBudget | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.reserved_bytes = 0
        self._whole = whole
        self._lock: threading.RLock = threading.RLock() if whole is None else whole._lock
        self._parts: weakref.WeakValueDictionary[Hashable, MemoryBudget] = weakref.WeakValueDictionary()

    def part(self, name: Hashable, limit_bytes: int) -> MemoryBudget:
        """The budget of one model's caches; one for all who ask by the same name, and the last limit holds."""
        with self._lock:
            part = self._parts.get(name)
            if part is None:
                part = self._parts[name] = MemoryBudget(limit_bytes, self)
            part.limit_bytes = limit_bytes
            return part

    def reserve(self, num_bytes: int) -> bool:
        """Take so much, here and of the whole; False where it does not fit, and nothing is taken."""
        with self._lock:
            if num_bytes > self.room().free_bytes and self.is_limited:
                return False
            budget: MemoryBudget | None = self
            while budget is not None:
                budget.reserved_bytes += num_bytes
                budget = budget._whole
            return True

    def release(self, num_bytes: int) -> None:
        """Give so much back."""
        with self._lock:
            budget: MemoryBudget | None = self
            while budget is not None:
                budget.reserved_bytes -= num_bytes
                budget = budget._whole

    @property
    def is_limited(self) -> bool:
        return self.limit_bytes is not None or (self._whole is not None and self._whole.is_limited)

    def room(self) -> Room:
        """Of this budget or of the whole, whichever has less; nothing where neither has a limit."""
        with self._lock:
            rooms = [] if self._whole is None or not self._whole.is_limited else [self._whole.room()]
            if self.limit_bytes is not None:
                rooms.append(Room(max(self.limit_bytes - self.reserved_bytes, 0), self.limit_bytes))
            return min(rooms, default=Room(0, 0))
