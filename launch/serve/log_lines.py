"""Lines of a log on standard error that hold up nobody: a terminal may be stopped, and a pipe may have no reader."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from contextlib import suppress

MOST_WAITING = 10_000
END_S = 1.0
"""So long the last lines may take at the end."""


class LogLines(logging.Handler):
    """Written on a thread of its own; those that find no room are left out, and counted. A context manager: leaving it
    writes what waits, where that can be written.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: queue.Queue[str | None] = queue.Queue(MOST_WAITING)
        self._num_left_out = 0
        self._thread = threading.Thread(target=self._write_all, name="shardnet-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.put_nowait(self.format(record))
        except queue.Full:
            self._num_left_out += 1

    def __enter__(self) -> LogLines:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(END_S)

    def _write_all(self) -> None:
        while (line := self._waiting.get()) is not None:
            _write(line)
            left_out, self._num_left_out = self._num_left_out, 0
            if left_out:
                _write(f"{left_out} lines were left out: nobody read them in time.")


def _write(line: str) -> None:
    """Without the locks of Python's streams, which would be held where it waits when the process ends."""
    left = f"{line}\n".encode(errors="backslashreplace")
    with suppress(OSError, ValueError):  # there is no standard error
        while left:
            left = left[os.write(sys.stderr.fileno(), left) :]
