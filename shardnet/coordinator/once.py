"""What sources ask for is done once, however often and however late they ask for the same."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

MOST_REMEMBERED = 256
"""Of what was asked, the latest."""

Begun = TypeVar("Begun")


class Once(Generic[Begun]):
    """What was begun, by the tickets of those who asked. Safe to use from several threads."""

    def __init__(self) -> None:
        self._begun: OrderedDict[int, Begun] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, ticket: int, begin: Callable[[], Begun]) -> Begun:
        """Begin it, which must not wait, or give what was begun for that ticket before. Raises what `begin` raises."""
        with self._lock:
            found = self._begun.get(ticket)
            if found is None:
                found = self._begun[ticket] = begin()
                if len(self._begun) > MOST_REMEMBERED:
                    self._begun.popitem(last=False)
        return found
