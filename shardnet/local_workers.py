"""Device processes on this machine: started together, and none of them outlives the `with` block or its parent.

Every process holds the reading end of a pipe as its standard input and ends itself when that closes; so they end even
when the parent is killed and no line of its Python runs any more. Knows nothing of clusters: see `shardnet.cluster`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

WORKER_COMMAND = (sys.executable, "-m", "shardnet.launch.worker")

GOODBYE_S = 1.5
"""How long a process may take to end by itself once its standard input is closed."""
TERMINATE_S = 0.7
"""How long it may take after SIGTERM, before SIGKILL."""


class LocalWorkers:
    """One process per device name, all meeting at `endpoint`. A context manager: leaving it ends every process.

    Args:
        endpoint: "HOST:PORT" of the store where the devices meet; it is served already.
        names: the devices, one process each.
        threads: compute threads of each process.
        log_dir: where each process's output goes, as NAME.log; a temporary folder, removed at the end, if None.
    """

    def __init__(self, endpoint: str, names: Sequence[str], threads: int, log_dir: Path | None = None) -> None:
        self.endpoint = endpoint
        self.names = tuple(names)
        self.threads = threads
        self._temporary = tempfile.TemporaryDirectory(prefix="shardnet-logs-") if log_dir is None else None
        self.log_dir = Path(self._temporary.name) if self._temporary else Path(str(log_dir))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> LocalWorkers:
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            for name in self.names:
                self._processes[name] = self._start(name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each device."""
        return {name: process.pid for name, process in self._processes.items()}

    def poll(self) -> list[tuple[str, int]]:
        """The devices whose process has ended, each with its return code (minus the signal's number if killed)."""
        codes = ((name, process.poll()) for name, process in self._processes.items())
        return [(name, code) for name, code in codes if code is not None]

    def log_tail(self, name: str, num_lines: int = 20) -> str:
        """The last lines that a device's process printed."""
        try:
            lines = (self.log_dir / f"{name}.log").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-num_lines:])

    def how_it_ended(self, name: str) -> str:
        """In words, how a device's process ended: "was killed by SIGKILL", "ended with exit code 1 (its last line)"."""
        code = self._processes[name].poll()
        if code is None:
            return "is still running"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        last_line = self.log_tail(name, num_lines=1).strip()
        return f"ended with exit code {code}" + (f" ({last_line})" if last_line else "")

    def close(self) -> None:
        """End every process within about 3 s: close its input, then SIGTERM, then SIGKILL. Safe to call twice."""
        processes = list(self._processes.values())
        for process in processes:
            with suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
        _wait_for_all(processes, GOODBYE_S)
        _signal_all(processes, signal.SIGTERM)
        _wait_for_all(processes, TERMINATE_S)
        _signal_all(processes, signal.SIGKILL)
        for process in processes:
            process.wait()
        if self._temporary:
            self._temporary.cleanup()

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        arguments = ["--endpoint", self.endpoint, "--name", name, "--threads", str(self.threads)]
        with open(self.log_dir / f"{name}.log", "wb") as log:
            return subprocess.Popen(
                [*WORKER_COMMAND, *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=worker_environment(os.environ, self.threads),
                start_new_session=True,  # Ctrl-C in the terminal reaches the parent only, which ends these in order
            )


def worker_environment(environment: Mapping[str, str], threads: int) -> dict[str, str]:
    """What a device process finds in its environment: its threads, no chatter, and no modules of the current folder."""
    return {
        **environment,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_CPP_LOG_LEVEL": environment.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
    }


def _wait_for_all(processes: Sequence[subprocess.Popen[bytes]], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))


def _signal_all(processes: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    """Signal those that still run, and what they started: each is the leader of a process group of its own."""
    for process in processes:
        if process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
