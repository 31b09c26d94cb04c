"""Work on a thread of its own, for whoever must not wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


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
