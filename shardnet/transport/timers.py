"""One thread that runs short functions later: deadlines of answers, and delays of the in-process network."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Timer:
    """A function that is due at a time. `cancel` also lets go of what the function holds."""

    def __init__(self, due_s: float, function: Callable[[], object]) -> None:
        self.due_s = due_s
        self.function: Callable[[], object] | None = function

    def cancel(self, *_: object) -> None:
        """Do not run the function. Takes and ignores an argument, so that it can be a future's callback."""
        self.function = None


class Timers:
    """Runs functions in the order in which they are due. They must not wait; what one raises stops no other.

    Args:
        speed: how many of its seconds pass in one.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._due: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def after(self, delay_s: float, function: Callable[[], object]) -> Timer:
        """Run `function` in `delay_s` seconds on the timer thread. Functions of one due time run in order."""
        return self.at(self.when(delay_s), function)

    def when(self, delay_s: float) -> float:
        """The time, of `time.monotonic`, at which `delay_s` seconds will have passed."""
        return time.monotonic() + delay_s / self.speed

    def at(self, due_s: float, function: Callable[[], object]) -> Timer:
        """Run `function` at a time that `when` has told."""
        timer = Timer(due_s, function)
        with self._changed:
            if self._closed:
                return timer
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="shardnet-timers", daemon=True)
                thread.start()
                self._thread = thread
            heapq.heappush(self._due, (timer.due_s, next(self._order), timer))
            if self._due[0][2] is timer:
                self._changed.notify()
        return timer

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._due or self._due[0][0] > time.monotonic()):
                    wait_s = self._due[0][0] - time.monotonic() if self._due else None
                    self._changed.wait(wait_s)
                if self._closed:
                    return
                timer = heapq.heappop(self._due)[2]
            if (function := timer.function) is not None:
                _run_all_the_same(function)

    def close(self) -> None:
        """Forget what is due and end the thread. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


def _run_all_the_same(function: Callable[[], object]) -> None:
    try:
        function()
    except Exception as error:  # whatever it is, the other deadlines must come
        _log.error("what was due failed: %s: %s", type(error).__name__, error)
