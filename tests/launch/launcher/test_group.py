"""What a script has started ends with the script's processes, also where the script itself has ended before it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from processes import is_over, wait_until

from shardnet.launch.launcher.failures import failures_of
from shardnet.launch.launcher.group import Command, ScriptGroup
from shardnet.launch.launcher.log_files import Files

ZOMBIE = """
import os, signal
leader = os.getpid()
reading, writing = os.pipe()
if (middle := os.fork()) == 0:
    os.setpgid(0, 0)
    if (child := os.fork()) == 0:
        os.setpgid(0, leader)
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    os.write(writing, b"x")
    signal.pause()
os.read(reading, 1)
print(middle, flush=True)
"""
"""Leaves behind a process that has ended, and whose parent, in another group, does not wait for it."""


def command(folder: Path, *line: str) -> Command:
    return Command([*line], os.environ, 0, 0, Files(folder / "out", None, folder / "error"))


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("how", ["sleep 1000", "(trap '' TERM; while true; do sleep 1; done)"], ids=["meek", "deaf"])
def test_what_a_script_has_started_ends_with_it(tmp_path: Path, how: str, code: int) -> None:
    """Only scripts that still lived were looked for: helpers of one that had failed went on, and kept its ports."""
    with ScriptGroup([command(tmp_path, "sh", "-c", f"{how} & echo $!; exit {code}")], shutdown_s=0.2) as group:
        wait_until(group.ended)
        (ended,) = group.ended()
        assert ended.code == code
        helper = int((tmp_path / "out").read_text())
        assert not is_over(helper)
    wait_until(lambda: is_over(helper))


def test_who_has_ended_and_was_not_waited_for_is_not_waited_for_here_either(tmp_path: Path) -> None:
    with ScriptGroup([command(tmp_path, sys.executable, "-c", ZOMBIE)], shutdown_s=10**6) as group:
        wait_until(group.ended)
    os.kill(int((tmp_path / "out").read_text()), signal.SIGKILL)


def test_a_signal_that_has_no_name_is_said_by_its_number(tmp_path: Path) -> None:
    """That a script was killed by a real-time signal, say, was a traceback."""
    with ScriptGroup([command(tmp_path, "sh", "-c", "kill -40 $$")], shutdown_s=5.0) as group:
        wait_until(group.ended)
        (failure,) = failures_of(group.ended())
    assert str(failure).endswith("was killed by signal 40")
