"""The signals that end a command: Ctrl-C, SIGTERM, SIGHUP. What the caller had ignored (nohup) stays ignored.

Imports nothing that takes time: it is the first thing that a command does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONCE_MORE_S = 0.01
"""Until then, the place from which nothing could be raised has been left."""


def signal_name(number: int) -> str:
    """Such as "SIGKILL"; those between the first and the last of the real-time signals have only numbers."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def end_at_once() -> None:
    """From now on, end without a word: there is nothing yet, or no more, that would have to be ended in order.

    An exception in the middle of an import comes out as anything: a traceback, an ImportError, or not at all.
    """
    _handle_by(lambda number, frame: os._exit(128 + number))


@contextmanager
def raised() -> Iterator[list[int]]:
    """While the block runs, raise KeyboardInterrupt or SystemExit, so that `with` blocks end what they started.

    Yields a list that gets the signals as they arrive. Where one arrives in a place from which nothing can be raised,
    such as a destructor, it is raised once more.
    """
    arrived: list[int] = []

    def leave(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def again(lost: Any) -> None:
        if not arrived:
            hook_before(lost)
        elif isinstance(lost.exc_value, (KeyboardInterrupt, SystemExit)):
            timer = threading.Timer(ONCE_MORE_S, os.kill, (os.getpid(), arrived[0]))
            timer.daemon = True
            timer.start()

    hook_before, sys.unraisablehook = sys.unraisablehook, again
    handlers_before = {number: signal.getsignal(number) for number in ENDING}
    _handle_by(leave)
    try:
        yield arrived
    finally:
        sys.unraisablehook = hook_before
        for number, handler in handlers_before.items():
            signal.signal(number, handler)


@contextmanager
def raised_behind() -> Iterator[None]:
    """What a signal raises in this block is raised behind it, whatever became of it within. For the main thread."""
    arrived: list[int] = []
    handlers = {number: handler for number in ENDING if callable(handler := signal.getsignal(number))}

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        handlers[signal.Signals(number)](number, frame)

    for number in handlers:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            handlers[signal.Signals(arrived[0])](arrived[0], None)


@contextmanager
def until_signalled() -> Iterator[None]:
    """In the block a signal is what is waited for: it ends the block, and is no failure. Within `raised`."""
    try:
        yield
    except KeyboardInterrupt:
        pass
    except SystemExit as end:
        if end.code not in {128 + number for number in ENDING}:
            raise


def _handle_by(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
