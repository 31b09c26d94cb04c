"""The three standard streams, usable whatever they are: closed, full, broken, or of an encoding that lacks characters.

Imports nothing that takes time: it is the first thing that a command does.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

STDIN, STDOUT, STDERR = 0, 1, 2


def open_closed() -> bool:
    """Make /dev/null of a closed stream; returns whether standard output was open.

    Otherwise the next file that is opened would get its number, and with it what a library prints; and Python would
    print to standard output what is meant for a standard error that is not there.
    """
    was_open = [_open_if_closed(number) for number in (STDIN, STDOUT, STDERR)]
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    return was_open[STDOUT]


@contextmanager
def tolerant_streams() -> Iterator[None]:
    """While the block runs, a failed write to standard error is no error: nobody is there to be told.

    Characters that standard output cannot encode are written as escapes, and it remembers whether it was written to.
    """
    before = sys.stdout, sys.stderr
    sys.stderr = cast(TextIO, TolerantStream(sys.stderr))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout = cast(TextIO, WatchedStream(sys.stdout))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Stream:
    """Does what the text stream in it does."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class WatchedStream(_Stream):
    """A text stream that knows whether anything was written to it."""

    was_written = False

    def write(self, text: str) -> int:
        self.was_written = True
        return self._stream.write(text)


class TolerantStream(_Stream):
    """A text stream on which a failed write is no error."""

    def write(self, text: str) -> int:
        with _tolerated(self._stream):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _tolerated(self._stream):
            self._stream.flush()


@contextmanager
def _tolerated(stream: TextIO) -> Iterator[None]:
    """In this block a failed write is no error, nor does what is still buffered become one when Python ends."""
    try:
        yield
    except (BlockingIOError, ValueError):  # full for a moment; closed
        pass
    except OSError:
        _end_in_null(stream)


def say(line: str) -> None:
    """Print a line on standard error, if somebody takes it."""
    with _tolerated(sys.stderr):
        print(line, file=sys.stderr, flush=True)


def flush_stdout() -> OSError | None:
    """Write out what is buffered; where that fails, drop it, so that it does not fail again when Python ends."""
    try:
        sys.stdout.flush()
    except ValueError:  # closed meanwhile, by a script
        return None
    except OSError as error:
        _end_in_null(sys.stdout)
        return error
    return None


def _end_in_null(stream: TextIO) -> None:
    """Let all that goes to the stream's descriptor vanish, what is still buffered, too, in whatever object."""
    with suppress(OSError, ValueError):  # it has none
        number = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def _open_if_closed(number: int) -> bool:
    """Whether the descriptor was open. The lowest free number is what a new file gets."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        os.set_inheritable(null, True)
        return False
    return True
