"""Real device processes at real doors: how they start and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import psutil
import pytest
from processes import is_frozen, is_over, wait_until
from warm_python import WARM_NURSERY

import shardnet
from shardnet.cluster import local_workers
from shardnet.cluster.local_workers import LocalWorkers
from shardnet.errors import BadRequest
from shardnet.transport import serve_door


@pytest.fixture
def endpoint() -> Iterator[str]:
    with serve_door("127.0.0.1") as door:
        yield door.endpoint


def test_all_end_with_the_block(endpoint: str) -> None:
    with LocalWorkers(endpoint, ["device-0", "device-1"], threads=1) as workers:
        wait_until(lambda: len(workers.pids) == 2)
        assert workers.poll() == []
        assert workers.how_it_ended("device-0") == "is still running"
        pids, log_dir = workers.pids, workers.log_dir
    assert all(is_over(pid) for pid in pids.values())
    assert not log_dir.exists()


def test_a_frozen_device_is_killed_in_time_and_the_other_goes_by_itself(endpoint: str) -> None:
    with LocalWorkers(endpoint, ["device-0", "device-1"], threads=1) as workers:
        wait_until(lambda: len(workers.pids) == 2)
        frozen = psutil.Process(workers.pids["device-0"])
        frozen.suspend()
        wait_until(lambda: is_frozen(frozen.pid))  # once, a thread that had not stopped yet ended it, with code 0
        start = time.monotonic()
    assert time.monotonic() - start < 4
    assert dict(workers.poll())["device-0"] == -signal.SIGKILL
    wait_until(lambda: is_over(frozen.pid))


@pytest.mark.usefixtures("warm_python")
def test_how_a_process_ended_is_told(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_workers, "NURSERY_COMMAND", WARM_NURSERY)
    with LocalWorkers(endpoint, ["device-0", "twin", "impossible/name"], 1, log_dir=tmp_path / "logs") as workers:
        wait_until(lambda: "impossible/name" in dict(workers.poll()))
        assert dict(workers.poll())["impossible/name"] != 0
        wait_until(lambda: "twin" in workers.pids)
        os.kill(workers.pids["twin"], signal.SIGKILL)
        wait_until(lambda: "twin" in dict(workers.poll()))
        assert workers.how_it_ended("twin") == "was killed by SIGKILL"
        assert "device-0" not in dict(workers.poll())
    with LocalWorkers("127.0.0.1:1x", ["device-0"], 1, log_dir=tmp_path / "logs") as workers:
        wait_until(workers.poll)
        assert workers.how_it_ended("device-0").startswith("ended with exit code 2 (An endpoint is")


def test_what_ended_a_device_is_said_whatever_it_was(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, only errors of ours were: of all others the user read "ended with exit code 1", and the log was empty."""
    program = (
        "from shardnet.device import nursery, process\n"
        "def serve(*_, **__):\n"
        "    raise KeyError('a defect of ours')\n"
        "process.serve = serve\n"
        "process.import_all = lambda *_: None\n"
        "nursery.main()\n"
    )
    monkeypatch.setattr(local_workers, "NURSERY_COMMAND", (sys.executable, "-c", program))
    with LocalWorkers(endpoint, ["device-0"], threads=1) as workers:
        wait_until(workers.poll)
        how = workers.how_it_ended("device-0")
    assert how.startswith("ended with exit code 1 (This is a mistake in shardnet (KeyError: 'a defect of ours')")


def test_devices_end_when_their_parent_is_killed(endpoint: str) -> None:
    program = textwrap.dedent(f"""
        import time
        from shardnet.cluster.local_workers import LocalWorkers
        with LocalWorkers({endpoint!r}, ["a", "b"], threads=1) as workers:
            while len(workers.pids) < 2:
                time.sleep(0.01)
            print(*workers.pids.values(), flush=True)
            time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: all(is_over(pid) for pid in pids))


def test_devices_of_a_killed_nursery_count_as_ended_and_end_with_the_block(endpoint: str) -> None:
    with LocalWorkers(endpoint, ["a", "b"], threads=1) as workers:
        wait_until(lambda: len(workers.pids) == 2)
        pids = workers.pids
        os.kill(psutil.Process(pids["a"]).ppid(), signal.SIGKILL)
        wait_until(lambda: len(workers.poll()) == 2)
        assert workers.how_it_ended("a") == "was killed by SIGKILL"
    wait_until(lambda: all(is_over(pid) for pid in pids.values()))


WORKER = 'exec "$0" -m shardnet.device.process --endpoint "$1" --name "$2"'


def test_a_worker_needs_no_standard_input_and_ends_in_order(endpoint: str) -> None:
    """Once, a worker whose standard input was /dev/null (nohup, systemd) ended after 0.4 s with exit code 0.

    Ending with the parent is now asked for by `--end-with`; a worker that was started by hand ends by signals.
    """
    inputs = {"a": "</dev/null", "b": "<&-"}
    workers = {
        name: subprocess.Popen(["sh", "-c", f"{WORKER} {stdin}", sys.executable, endpoint, name])
        for name, stdin in inputs.items()
    }
    try:
        with shardnet.Cluster.connect(endpoint, num_devices=2) as cluster:
            assert {answer["device"] for answer in cluster.describe()} == {"a", "b"}
        assert [worker.poll() for worker in workers.values()] == [None, None]
        workers["a"].send_signal(signal.SIGTERM)
        workers["b"].send_signal(signal.SIGINT)
        assert [worker.wait(20) for worker in workers.values()] == [143, 130]
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()


def test_a_worker_says_what_is_wrong_with_its_options(endpoint: str) -> None:
    asked = [sys.executable, "-m", "shardnet.device.process", "--endpoint", endpoint, "--name", "a"]
    for option, sentence in (
        (["--end-with", "77"], "must be the number of an open file, but is '77'"),
        (["--threads", "0"], "must be a whole number from 1 to 1024, but is '0'"),
    ):
        done = subprocess.run([*asked, *option], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert sentence in done.stderr


def test_devices_start_though_a_standard_stream_is_closed(endpoint: str) -> None:
    """The pipe to the devices must not get the number of a closed stream: they would find /dev/null in its place."""
    program = textwrap.dedent(f"""
        import time
        from shardnet.cluster.local_workers import LocalWorkers
        with LocalWorkers({endpoint!r}, ["a"], threads=1) as workers:
            while not workers.pids and not workers.poll():
                time.sleep(0.01)
            time.sleep(0.2)
            assert not workers.poll(), workers.how_it_ended("a")
    """)
    done = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" <&-', sys.executable, program], timeout=60, check=False)
    assert done.returncode == 0


def test_a_nursery_is_buried_after_the_last_signal(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was buried as soon as it had ended, and its number signalled later: by then it might have been another's."""
    monkeypatch.setattr(local_workers, "NURSERY_COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    with LocalWorkers(endpoint, ["device-0"], threads=1) as workers:
        wait_until(lambda: workers.poll() == [("device-0", 3)])
        assert workers._nursery is not None
        nursery = psutil.Process(workers._nursery.pid)
        assert nursery.status() == psutil.STATUS_ZOMBIE
    assert not nursery.is_running()


def nursery_that(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(local_workers, "NURSERY_COMMAND", (sys.executable, "-c", program))


def test_all_end_and_are_told_where_python_has_no_waitid(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS the thread that listens ended with an AttributeError, and so did every command with local devices."""
    monkeypatch.delattr(os, "waitid")
    for program, code in (("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)):
        nursery_that(monkeypatch, program)
        with LocalWorkers(endpoint, ["device-0"], 1) as workers:
            wait_until(lambda: workers.poll() == [("device-0", code)])  # noqa: B023 (called here alone)
    nursery_that(monkeypatch, "import time; time.sleep(600)")
    with LocalWorkers(endpoint, ["device-0"], 1) as workers:
        assert workers._nursery is not None
        pid = workers._nursery.pid
    assert is_over(pid)


def test_where_no_device_came_up_the_nurserys_last_words_are_told(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were never read; the log of an earlier run in the same folder was, and passed for this one's."""
    (tmp_path / "device-0.log").write_text("what an earlier run has printed\n")
    nursery_that(monkeypatch, "import sys; sys.exit('There is no torch.')")
    with LocalWorkers(endpoint, ["device-0"], 1, log_dir=tmp_path) as workers:
        assert workers.log_tail("device-0") == ""
        wait_until(workers.poll)
        assert workers.how_it_ended("device-0") == "ended with exit code 1 (There is no torch.)"


def test_what_a_library_prints_in_the_nursery_is_passed_over(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that listens ended with a traceback, and nobody heard of a device any more."""
    nursery_that(
        monkeypatch,
        "import os; os.write(1, b'Hello from a library\\n\\xff two words\\ndevice-0 ended 5\\n')",
    )
    with LocalWorkers(endpoint, ["device-0"], 1) as workers:
        wait_until(lambda: workers.poll() == [("device-0", 5)])


def test_a_thread_that_cannot_be_started_is_what_is_told(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "cannot join thread before it is started" took its place."""

    def refused() -> NoReturn:
        raise RuntimeError("can't start new thread")

    nursery_that(monkeypatch, "import time; time.sleep(600)")
    workers = LocalWorkers(endpoint, ["device-0"], 1)
    monkeypatch.setattr(workers._listener, "start", refused)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        workers.__enter__()
    assert workers._nursery is None


def test_a_second_ctrl_c_leaves_no_process(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(timeout_s: float) -> NoReturn:
        raise KeyboardInterrupt

    nursery_that(monkeypatch, "import time; time.sleep(600)")
    with pytest.raises(KeyboardInterrupt), LocalWorkers(endpoint, ["device-0"], 1) as workers:
        assert workers._nursery is not None
        nursery = psutil.Process(workers._nursery.pid)
        monkeypatch.setattr(workers, "_ends_within", interrupted)
    assert not nursery.is_running() and not workers.log_dir.exists()


def test_too_few_open_files_are_told_before_a_device_starts(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ulimit -n 30 devices "did not join within 60 s"; with 45, torch ended the process by SIGABRT."""
    monkeypatch.setattr("resource.getrlimit", lambda which: (30, 30))
    workers = LocalWorkers(endpoint, ["a", "b", "c"], threads=1)
    with pytest.raises(BadRequest, match=r"may have 30 open files \(ulimit -n\), and with 3 local devices .* to 88"):
        workers.__enter__()
    assert not workers.pids and not workers.log_dir.exists()


def test_one_device_alone_is_one_process(endpoint: str) -> None:
    """On a phone, each process counts."""
    with LocalWorkers(endpoint, ["device-0"], 1) as workers:
        wait_until(lambda: workers.pids)
        device = psutil.Process(workers.pids["device-0"])
        assert device.ppid() == os.getpid()
        assert not [each.path for each in device.memory_maps() if "/tokenizers/" in each.path], (
            "transformers is not there"
        )
        os.kill(workers.pids["device-0"], signal.SIGKILL)
        wait_until(workers.poll)
        assert workers.how_it_ended("device-0") == "was killed by SIGKILL"


@pytest.mark.usefixtures("warm_python")
def test_a_device_that_failed_is_started_again_as_often_as_is_asked(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_workers, "NURSERY_COMMAND", WARM_NURSERY)
    with LocalWorkers(endpoint, ["a", "b"], 1, most_restarts=1) as workers:
        wait_until(lambda: len(workers.pids) == 2)
        first = workers.pids
        os.kill(first["a"], signal.SIGKILL)
        wait_until(lambda: workers.pids["a"] != first["a"])
        assert workers.poll() == []
        second = workers.pids["a"]
        os.kill(second, signal.SIGKILL)
        wait_until(workers.poll)
        assert workers.poll() == [("a", -signal.SIGKILL)]
        assert workers.pids == {"a": second, "b": first["b"]}
    wait_until(lambda: is_over(first["b"]))
