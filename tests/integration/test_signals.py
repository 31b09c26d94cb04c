"""Signals at any moment of any command: no traceback, no process left over, and an exit code that says which it was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from processes import wait_until
from tiny_text_model import save_text_model

NUM_MOMENTS = 12
"""For each command."""
MARK = "SHARDNET_TEST_MARK"


def commands(folder: Path) -> dict[str, list[str]]:
    model = save_text_model(folder / "model")
    (folder / "script.py").write_text(
        "try:\n    import shardnet\n    with shardnet.Cluster.connect() as cluster:\n        print(*cluster.devices)\n"
        "except KeyboardInterrupt:\n    pass\n"  # of which Python would say more, as it is passed on
    )
    shardnet, run = ([sys.executable, "-m", name] for name in ("shardnet.launch.cli", "shardnet.launch"))
    home = ["--model", "llama-2-7b", "--bits", "4", "--cluster", "home"]
    return {
        "plan": [*shardnet, "plan", *home],
        "simulate": [*shardnet, "simulate", *home, "--json"],
        "profile": [*shardnet, "profile", "--model", str(model), "--refresh", "--max-seconds", "2"],
        "doctor": [*shardnet, "doctor"],
        "generate": [*shardnet, "generate", "--model", str(model), "--prompt", "Hi", "--devices", "2", "-n", "50"],
        "shardnet-run": [*run, "--standalone", "--nproc-per-node", "2", str(folder / "script.py")],
    }


def marked(mark: str) -> list[int]:
    """The living processes that have it in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", ["plan", "simulate", "profile", "doctor", "generate", "shardnet-run"])
def test_a_signal_at_any_moment_is_quiet_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    command = commands(tmp_path)[name]
    mark = uuid.uuid4().hex
    environment = {**os.environ, MARK: mark, "SHARDNET_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    start_s = time.monotonic()
    subprocess.run(command, env=environment, capture_output=True, timeout=600, check=True)
    took_s = time.monotonic() - start_s
    moments = random.Random(name)
    for index in range(NUM_MOMENTS):
        number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[index % 3]
        wait_s = moments.uniform(0.15, took_s)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
            time.sleep(wait_s)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        if "<frozen site>" in said:  # Python itself was still starting: no line of ours can run before that
            continue
        moment = f"{number.name} after {wait_s:.2f} of {took_s:.2f} s"
        assert process.returncode in (0, 128 + number, -number), f"{moment}: {process.returncode}, {said}"
        assert "Traceback" not in said and "Exception" not in said and "shardnet:" not in said, f"{moment}: {said}"
        wait_until(lambda: not marked(mark), timeout_s=5)
