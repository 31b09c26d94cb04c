"""Work on a thread of its own, for whoever must not wait."""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


def on_thread(name: str, work: Callable[[], Result]) -> Future[Result]:
    """Run `work` on a thread called `name`; what it returns or raises goes to the caller."""
    future: Future[Result] = Future()
    threading.Thread(target=do_for, args=(future, work), name=name, daemon=True).start()
    return future


def do_for(future: Future[Result], work: Callable[[], Result]) -> None:
    """Do `work`; what it returns or raises is the future's, and so the concern of whoever waits for it."""
    try:
        future.set_result(work())
    except Exception as error:  # it travels to the caller, and must not hold here what the work held
        future.set_exception(error.with_traceback(None))


class Errands:
    """Does one thing after another on a thread of its own. A context manager: leaving it waits for what was given.

    The thread also ends when nobody holds this any more.
    """

    def __init__(self, name: str) -> None:
        self._given: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._is_over = False
        self._thread = threading.Thread(target=_run_errands, args=(self._given,), name=name, daemon=True)
        self._thread.start()
        weakref.finalize(self, self._given.put, None)

    def do(self, errand: Callable[[], object]) -> None:
        """Have it done; what it raises is logged. After the end nothing is.

        Takes no lock that could be held here already: the garbage collector may be who calls, in the midst of anything.
        """
        if not self._is_over:
            self._given.put(errand)

    def settle(self, timeout_s: float) -> None:
        """Wait until what was given so far is done, but no longer than that."""
        if not self._is_over:
            done = threading.Event()
            self._given.put(done.set)
            done.wait(timeout_s)

    def end(self, wait_s: float = 0.0) -> None:
        """What was given is still done, and nothing more. Waits no longer than `wait_s`. Safe to call twice."""
        self._is_over = True
        self._given.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(wait_s)

    def __enter__(self) -> Errands:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._thread.join()


def _run_errands(given: queue.SimpleQueue[Callable[[], object] | None]) -> None:
    while (errand := given.get()) is not None:
        try:
            errand()
        except Exception as error:  # whatever it is, the others are done
            _log.error("an errand failed: %s: %s", type(error).__name__, error)
        del errand  # what it holds must not wait here for the next one
