"""The signals that end a command: Ctrl-C, SIGTERM, SIGHUP. What the caller had ignored (nohup) stays ignored.

Imports nothing that takes time: it is the first thing that a command does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], object]
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
    for each in _not_ignored():
        signal.signal(each, lambda number, frame: os._exit(128 + number))


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
    with handled_by(leave, _not_ignored()):
        try:
            yield arrived
        finally:
            sys.unraisablehook = hook_before


@contextmanager
def raised_behind() -> Iterator[None]:
    """What a signal raises in this block is raised behind it, whatever became of it within. For the main thread."""
    arrived: list[int] = []
    handlers = {number: handler for number in ENDING if callable(handler := signal.getsignal(number))}

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        handlers[signal.Signals(number)](number, frame)

    try:
        with handled_by(note, handlers):
            yield
    finally:
        if arrived:
            handlers[signal.Signals(arrived[0])](arrived[0], None)


@contextmanager
def handled_by(handler: Handler, numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """In this block these signals go to a handler. For the main thread."""
    before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


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


def _not_ignored() -> list[signal.Signals]:
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
