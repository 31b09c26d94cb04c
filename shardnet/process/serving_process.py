"""A process that serves this one, and may outlive it: found again by its name, and ended in order."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from shardnet.process.identity import has_ended, number_of

if TYPE_CHECKING:
    from typing_extensions import Self

GOODBYE_S = 2.0
"""How long it may take after SIGTERM, before SIGKILL."""
KILLED_S = 5.0
"""How long the system may take to end it then."""
LOOK_EVERY_S = 0.01


class ServingProcess:
    """A context manager: leaving it ends the process.

    Args:
        log: what it writes.
        process: as `process.identity` names it; empty where the system does not say.
        child: the process, where this one has started it.
        begins_at: what is in its log before that, in bytes, is of earlier ones.
    """

    def __init__(self, log: Path, process: str, child: subprocess.Popen[bytes] | None, *, begins_at: int = 0) -> None:
        self.log = log
        self.process = process
        self.child = child
        self._begins_at = begins_at

    @property
    def has_ended(self) -> bool:
        return has_ended(self.process) if self.child is None else self.child.poll() is not None

    @property
    def last_line(self) -> str:
        """Of its log, without the name of the program before it; empty where there is none."""
        try:
            with open(self.log, "rb") as log:
                log.seek(self._begins_at)
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1].removeprefix("shardnet: ") if lines else ""

    def close(self) -> None:
        """Let it leave in order, and kill it where it does not. Safe to call twice."""
        try:
            self._signal(signal.SIGTERM)
            self._ends_within(GOODBYE_S)
        finally:
            self._signal(signal.SIGKILL)
            self._ends_within(KILLED_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        if self.child is not None:
            self.child.send_signal(number)
            return
        pid = number_of(self.process)
        if pid is not None and not self.has_ended:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _ends_within(self, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while not self.has_ended:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(LOOK_EVERY_S)
        return True
