"""Answers that a device waits for, each under a number and until a time. One timer for all of them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from shardnet.transport.failure import timed_out
from shardnet.transport.outcomes import settle
from shardnet.transport.timers import Timer, Timers


class Due(NamedTuple):
    """An answer that is waited for."""

    answer: Future[Any]
    endpoint: str
    request: Any
    until_s: float
    timeout_s: float


class Dues:
    """The answers of one device that are due. Safe to use from several threads.

    Args:
        on_late: called on the timer thread when some were not there in time; they fail after that.
    """

    def __init__(self, device: str, timers: Timers, on_late: Callable[[], object]) -> None:
        self._device = device
        self._timers = timers
        self._on_late = on_late
        self._lock = threading.Lock()
        self._due: dict[int, Due] = {}
        self._last_number = 0
        self._look_s = math.inf
        self._look_timer: Timer | None = None
        self.is_over = False

    def add(self, endpoint: str, request: Any, timeout_s: float) -> tuple[int, Future[Any]] | None:
        """Wait for one more; its number, from 1 up, and the future that gets it. None after the end."""
        due = Due(Future(), endpoint, request, self._timers.when(timeout_s), timeout_s)
        with self._lock:
            if self.is_over:
                return None
            number = self._last_number = self._last_number + 1
            self._due[number] = due
            if due.until_s < self._look_s:
                self._look_at(due.until_s)
        return number, due.answer

    def take(self, number: int) -> Due | None:
        """Wait for it no longer; None where that has ended already."""
        with self._lock:
            return self._due.pop(number, None)

    def end(self) -> list[Due]:
        """Wait for nothing more; what is due is the caller's to settle."""
        with self._lock:
            self.is_over = True
            ended, self._due = list(self._due.values()), {}
            self._look_at(math.inf)
        return ended

    def _look_at(self, look_s: float) -> None:
        """There is one look ahead, or none: whoever sets another one cancels it. The lock is held."""
        if self._look_timer is not None:
            self._look_timer.cancel()
        self._look_s = look_s
        self._look_timer = self._timers.at(look_s, self._look) if look_s < math.inf else None

    def _look(self) -> None:
        now_s = time.monotonic()
        with self._lock:
            numbers = [number for number, due in self._due.items() if due.until_s <= now_s]
            late = [self._due.pop(number) for number in numbers]
            self._look_at(min((due.until_s for due in self._due.values()), default=math.inf))
        if late:
            self._on_late()
        for due in late:
            settle(due.answer, timed_out(self._device, due.endpoint, due.timeout_s))
