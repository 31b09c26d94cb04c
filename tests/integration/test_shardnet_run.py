"""`shardnet-run` with real devices: what the script finds, how its end is passed on, and that nothing is left over."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from processes import devices_of, is_over, wait_until
from warm_python import WARM_PYTHON, warm_program

RUN = ["-m", "shardnet.launch", "--standalone"]
LAUNCHER = [sys.executable, *RUN]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

CONNECT = """
import os, sys, shardnet
with shardnet.Cluster.connect() as cluster:
    print("devices", *cluster.devices)
    print("threads", *(each["num_threads"] for each in cluster.describe()))
print("arguments", *sys.argv[1:])
print("name", __name__)
print("environment", os.environ["SHARDNET_NUM_DEVICES"], os.environ["WORLD_SIZE"])
print("endpoint", os.environ["SHARDNET_ENDPOINT"])
sys.exit(7)
"""


@pytest.fixture(autouse=True, scope="module")
def warm(warm_python: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`launch` needs it, and scripts that import shardnet are run in such a Python, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENT, "PYTHON_EXEC", str(warm_program(tmp_path_factory.mktemp("python"))))
        yield


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a Python that is warm already. How the launcher starts and ends is looked at in a fresh one, see `waiting`."""
    command = [*WARM_PYTHON, *RUN, *arguments]
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_script_finds_its_devices_and_its_exit_code_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(CONNECT)
    done = launch(tmp_path, "--nproc_per_node", "2", "--threads", "1", "--log-dir", "logs", "script.py", "--a", "b")
    assert done.returncode == 7, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert said["devices"] == "device-0 device-1"
    assert said["threads"] == "1 1"
    assert said["arguments"] == "--a b"
    assert said["name"] == "__main__"
    assert said["environment"] == "2 1"
    [folder] = (tmp_path / "logs").iterdir()
    assert {log.name for log in (folder / "devices").iterdir()} >= {"device-0.log", "device-1.log"}


def test_an_endpoint_that_was_asked_for_is_where_the_devices_meet(tmp_path: Path) -> None:
    """Others of this user find them there."""
    (tmp_path / "script.py").write_text(
        "import shardnet, sys\nwith shardnet.Cluster.connect(sys.argv[1], num_devices=1) as cluster:\n"
        "    print(*cluster.devices)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"127.0.0.1:{closed.getsockname()[1]}"
    done = launch(tmp_path, "--rdzv-endpoint", endpoint, "script.py", endpoint)
    assert (done.returncode, done.stdout) == (0, "device-0\n"), done.stderr


def test_devices_outlast_a_cluster_that_only_found_them(tmp_path: Path) -> None:
    """Once, the first cluster's end sent them home, and the second waited for a minute."""
    again = "import shardnet\nfor _ in range(2):\n    with shardnet.Cluster.connect() as cluster:\n        "
    (tmp_path / "script.py").write_text(again + "print(*cluster.devices)\n")
    done = launch(tmp_path, "--nproc-per-node", "2", "script.py")
    assert (done.returncode, done.stdout) == (0, "device-0 device-1\n" * 2), done.stderr


def test_a_module_runs_too(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "job.py").write_text("import sys; print(__name__, __package__, sys.argv[1:])")
    done = launch(tmp_path, "--nproc-per-node=1", "-m", "package.job", "x")
    assert (done.returncode, done.stdout) == (0, "__main__ package ['x']\n"), done.stderr


def test_an_exception_shows_the_script_and_not_the_launcher(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import neighbour\n\ndef fail():\n    raise KeyError('lost')\n\nfail()\n")
    (tmp_path / "neighbour.py").write_text("")
    done = launch(tmp_path, "script.py")
    assert done.returncode == 1
    assert "KeyError: 'lost'" in done.stderr
    assert "line 6, in <module>" in done.stderr
    assert "launch/launcher" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("shardnet-run: script.py of rank 0 (local rank 0, pid ")
    assert done.stderr.splitlines()[-1].endswith(") ended with exit code 1.")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--nproc-per-node", "0", "script.py"], "--nproc-per-node must be a whole number from 1 to 1024, but is '0'."),
        (["--nproc-per-node", "9" * 9, "script.py"], "from 1 to 1024, but is '999999999'."),  # it filled the memory
        (["--nproc-per-node", "9" * 5000, "script.py"], "(5000 characters)."),
        (["--threads", "many", "script.py"], "--threads must be a whole number from 1 to 1024, but is 'many'."),
        (["--rdzv-endpoint", "here:", "script.py"], "An endpoint is"),
        (["--rdzv-endpoint", "no.such.host.invalid:29500", "script.py"], "Cannot listen on no.such.host.invalid:29500"),
        (["--rdzv-endpoint", "0.0.0.0:29500", "script.py"], "encrypted. Choose 127.0.0.1:29500. "),  # it was opened
        (["missing.py"], "There is no script 'missing.py'."),
        (["."], ". is a folder without __main__.py. Name a script in it."),
        (["-m", "no_such_module"], "There is no module 'no_such_module'."),
    ],
)
def test_what_cannot_be_run_is_said(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    (tmp_path / "script.py").write_text("")
    done = launch(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("shardnet: ")
    assert sentence in done.stderr


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A launcher whose script has said "ready" and waits."""
    (tmp_path / "script.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(600)\n")
    command = [*LAUNCHER, "--nproc-per-node", "2", "script.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as launcher:
        try:
            assert launcher.stdout is not None
            assert launcher.stdout.readline() == "ready\n"
            yield launcher
        finally:
            launcher.kill()


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_signal_ends_everything(waiting: subprocess.Popen[str], number: signal.Signals, exit_code: int) -> None:
    wait_until(lambda: len(devices_of(waiting.pid)) == 2)
    children = [child.pid for child in psutil.Process(waiting.pid).children(recursive=True)]
    waiting.send_signal(number)
    assert waiting.wait(10) == exit_code
    wait_until(lambda: all(is_over(pid) for pid in children), timeout_s=5)


def test_a_dead_device_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
    command = [*LAUNCHER, "--nproc-per-node", "1", "script.py"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, text=True, **pipes) as launcher:  # type: ignore[call-overload]
        assert launcher.stdout.readline() == "ready\n"
        wait_until(lambda: devices_of(launcher.pid))
        os.kill(devices_of(launcher.pid)["device-0"], signal.SIGKILL)
        assert launcher.stderr.readline() == "shardnet-run: device-0 was killed by SIGKILL.\n"
        launcher.stdin.close()
        assert launcher.wait(20) == 0
