"""Real processes, with a small stand-in for the device program: what is tested here is how they start and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from shardnet import local_workers
from shardnet.local_workers import LocalWorkers

OBEDIENT = "import sys; print('ready', sys.argv[1:], flush=True); sys.stdin.read()"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
FAILING = "import sys; print('no such door'); sys.exit(7)"


def use(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(local_workers, "WORKER_COMMAND", (sys.executable, "-c", program))


def wait_for(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def test_all_end_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, OBEDIENT)
    with LocalWorkers("127.0.0.1:1", ["device-0", "device-1"], threads=1) as workers:
        wait_for(lambda: all("ready" in workers.log_tail(name) for name in workers.names))
        assert "--threads', '1'" in workers.log_tail("device-1")
        assert workers.poll() == []
        pids, log_dir = workers.pids, workers.log_dir
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert not log_dir.exists()


def test_a_process_that_ignores_everything_is_killed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, STUBBORN)
    with LocalWorkers("127.0.0.1:1", ["device-0"], threads=1) as workers:
        wait_for(lambda: "ready" in workers.log_tail("device-0"))
        start = time.monotonic()
    assert time.monotonic() - start < 3.5
    assert workers.poll() == [("device-0", -signal.SIGKILL)]


def test_how_a_process_ended_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, FAILING)
    with LocalWorkers("127.0.0.1:1", ["device-0"], threads=1, log_dir=tmp_path / "logs") as workers:
        wait_for(workers.poll)
        assert workers.poll() == [("device-0", 7)]
        assert workers.how_it_ended("device-0") == "ended with exit code 7 (no such door)"
    assert (tmp_path / "logs" / "device-0.log").read_text() == "no such door\n"


def test_workers_end_when_their_parent_is_killed() -> None:
    program = textwrap.dedent(f"""
        import sys, time
        from shardnet import local_workers
        local_workers.WORKER_COMMAND = (sys.executable, "-c", {OBEDIENT!r})
        with local_workers.LocalWorkers("127.0.0.1:1", ["a", "b"], threads=1) as workers:
            print(*workers.pids.values(), flush=True)
            time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        os.kill(parent.pid, signal.SIGKILL)
        assert len(pids) == 2
        wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))
