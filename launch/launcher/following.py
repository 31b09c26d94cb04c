"""Shows on the terminal, line by line, what processes write into their logs meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

LOOK_EVERY_S = 0.1
MOST_LINE_BYTES = 2**16
"""A longer one is shown in pieces."""


class Followed(NamedTuple):
    """A log, and who is told its lines, without their ends. It may not be there yet."""

    path: Path
    tell: Callable[[str], object]


@contextmanager
def shown_meanwhile(logs: Sequence[Followed]) -> Iterator[None]:
    """While the block runs, tell each line of the logs once; in the end, a last one without an end, too."""
    if not logs:
        yield
        return
    is_over = threading.Event()
    read = [_Reader(each) for each in logs]

    def look() -> None:
        is_last = False
        while not is_last:
            is_last = is_over.wait(LOOK_EVERY_S)
            for each in read:
                each.look(is_last=is_last)

    thread = threading.Thread(target=look, name="shardnet-run-logs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


class _Reader:
    def __init__(self, log: Followed) -> None:
        self._log = log
        self._done = 0
        """Bytes that were told."""

    def look(self, *, is_last: bool) -> None:
        with suppress(FileNotFoundError), open(self._log.path, "rb") as file:
            file.seek(0, 2)
            if file.tell() < self._done:  # who writes it was started again, and began anew
                self._done = 0
            file.seek(self._done)
            while line := file.readline(MOST_LINE_BYTES):
                if not (line.endswith(b"\n") or len(line) == MOST_LINE_BYTES or is_last):
                    break
                self._done += len(line)
                self._log.tell(line.decode(errors="replace").rstrip("\n"))
