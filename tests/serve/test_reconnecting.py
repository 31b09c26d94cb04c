"""A server beside a cluster whose `shardnet up` ends and is started again, as processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import wait_until
from serve_client import chat
from serve_command import LONG_S, SERVE, ask, events, start
from tiny_text_model import save_text_model

from shardnet.process.lasting import is_running


def up(model: Path, folder: Path) -> subprocess.Popen[str]:
    """A cluster that is to hold it."""
    command = [sys.executable, "-m", "shardnet", "up", "--model", str(model), "--state", str(folder)]
    return start(*command, "--listen", "none", "--json")


def end(process: subprocess.Popen[str], by: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(by)
    process.communicate(timeout=LONG_S)


IMPATIENT = """
import shardnet.source.running_cluster as running
running.AWAY_S = 0.5
from shardnet.launch.cli import main
main()
"""
"""A command that looks for a coordinator no longer than that, in place of a minute."""


@pytest.mark.parametrize(
    ("command", "by"),
    [
        (SERVE, signal.SIGINT),
        ([sys.executable, "-c", IMPATIENT, "serve"], signal.SIGINT),
        ([sys.executable, "-c", IMPATIENT, "serve"], signal.SIGKILL),
    ],
)
def test_a_cluster_that_is_started_again_is_found(tmp_path: Path, command: list[str], by: signal.Signals) -> None:
    model, folder = save_text_model(tmp_path / "tiny", ends=False), tmp_path / "state"
    cluster = up(model, folder)
    events(cluster, "loaded")
    server = start(*command, "--cluster", str(folder), "--port", "0", "--json")
    try:
        url = events(server, "serving")["url"]
        asked = f"{url}/v1/chat/completions", chat(model="tiny")
        before = ask(*asked)
        assert before[0] == 200
        end(cluster, by)
        wait_until(lambda: not is_running(folder), timeout_s=LONG_S)
        assert ask(f"{url}/health")[0] == 503
        status, told = ask(*asked)
        assert status == 503 and told["error"]["code"] == "no_ring"
        cluster = up(model, folder)
        wait_until(lambda: ask(f"{url}/health")[0] == 200, timeout_s=LONG_S)
        wait_until(lambda: ask(*asked)[0] == 200, timeout_s=LONG_S)
        again = ask(*asked)[1]
        assert again["choices"] == before[1]["choices"]
    finally:
        end(server, signal.SIGINT)
        end(cluster, signal.SIGINT)
    assert server.returncode == 0
