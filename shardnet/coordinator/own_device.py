"""The device of the machine that a coordinator runs on: a process of its own, which it starts and ends.

It has a session of its own, so that Ctrl-C in a terminal reaches the coordinator alone, and logs into the state folder.
It ends when this process is no more, in whatever way.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from shardnet.cluster.local_workers import inherited_pipe, worker_environment
from shardnet.coordinator.attendance import HAS_ENDED
from shardnet.errors import UsageError

DEVICE_COMMAND = (sys.executable, "-m", "shardnet.device.process")
GOODBYE_S = 2.0
"""How long it may take after SIGTERM, before SIGKILL."""


class OwnDevice:
    """Starts the device. A context manager: leaving it ends the process.

    Raises:
        UsageError: its log cannot be written.
    """

    def __init__(
        self, folder: Path, endpoint: str, name: str, threads: int, most_memory_bytes: int | None = None
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        reading, self._pipe = inherited_pipe()
        limit = [] if most_memory_bytes is None else ["--memory-bytes", str(most_memory_bytes)]
        arguments = ["--endpoint", endpoint, "--name", name, "--threads", str(threads), *limit]
        try:
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(
                    [*DEVICE_COMMAND, *arguments, "--end-with", str(reading)],
                    pass_fds=(reading,),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=worker_environment(os.environ, threads),
                    start_new_session=True,
                )
        except OSError as cause:
            os.close(self._pipe)
            raise UsageError(f"The log {self._log} cannot be written: {cause.strerror}.") from cause
        finally:
            os.close(reading)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def how_it_ended(self, device: str) -> str:
        """In words that follow "is lost". Of other devices nothing is known."""
        code = self._process.poll() if device == self.name else None
        if code is None:
            return HAS_ENDED
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}{self._last_line()}"

    def close(self) -> None:
        """Let it leave in order, and kill it where it does not. Safe to call twice."""
        try:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GOODBYE_S)
        finally:
            self._process.kill()
            self._process.wait()
            pipe, self._pipe = self._pipe, -1
            if pipe >= 0:
                os.close(pipe)

    def __enter__(self) -> OwnDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _last_line(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return f" ({lines[-1].removeprefix('shardnet: ')})" if lines else ""
