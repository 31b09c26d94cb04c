"""How the launcher's parts end: not too early, and with the error that there was."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path

import pytest
from processes import wait_until

from shardnet.cluster import local_workers
from shardnet.cluster.local_workers import LocalWorkers
from shardnet.errors import BadRequest
from shardnet.launch.launcher.asked import Logs
from shardnet.launch.launcher.devices import ENDS_S, wait_for_end
from shardnet.launch.launcher.log_files import files_of_attempt, run_folder
from shardnet.launch.launcher.streams import Streams

SLOW_NURSERY = (
    "import signal\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
    "print('device-0 ended -9', flush=True)\n"
    "signal.sigwait([signal.SIGTERM])\n"
    "print('device-0 started 1', flush=True)\n"
    "print('device-0 ended 0', flush=True)\n"
)
"""Starts its device again, and takes its time."""


def logs_in(folder: Path | None) -> Logs:
    return Logs(folder, [Streams(True, True)], [Streams(False, False)], frozenset([0]), (), ())


def test_a_node_waits_for_a_device_that_is_about_to_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked in between, took all for ended, and ended the one that had just been started."""
    monkeypatch.setattr(local_workers, "NURSERY_COMMAND", (sys.executable, "-c", SLOW_NURSERY))
    with ThreadPoolExecutor(1) as thread, LocalWorkers("127.0.0.1:1", ["device-0"], 1, most_restarts=1) as workers:
        wait_until(workers.poll)
        code = thread.submit(wait_for_end, workers)
        with pytest.raises(TimeoutError):
            code.result(2 * ENDS_S)
        workers._signal_all(signal.SIGTERM)
        assert code.result(60) == 0


@pytest.mark.parametrize("stays", [True, False])
def test_what_fails_beside_logs_is_not_said_of_them(tmp_path: Path, stays: bool) -> None:
    """Whatever the system refused in the course of a run with --log-dir, was said of its logs."""
    with pytest.raises(ConnectionResetError), run_folder(logs_in(tmp_path if stays else None), "run") as folder:
        raise ConnectionResetError
    assert folder.exists() == stays


def test_logs_that_cannot_be_written_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadRequest, match=r"^Logs cannot be written to .*file: .*--log-dir"):
        with run_folder(logs_in(tmp_path / "file"), "run"):
            pass
    with pytest.raises(BadRequest, match=r"^Logs cannot be written to .*file: .*--log-dir"):
        files_of_attempt(logs_in(None), tmp_path / "file", 1)
