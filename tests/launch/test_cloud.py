"""What a cloud node is started with: the script of the container, and the unit for systemd."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CLOUD = Path(__file__).parents[2] / "launch" / "cloud"
UNIT = CLOUD / "shardnet-join.service"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder, beside a program `shardnet` that only says how it was called, and what it reads."""
    said = tmp_path / "shardnet"
    said.write_text('#!/bin/sh\nfor each in "$@"; do echo "$each"; done\n[ "$2" != - ] || cat\n')
    said.chmod(0o755)
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def called(state: Path, *more: str, **settings: str) -> list[str]:
    """With which arguments the script calls it."""
    environment = {"PATH": f"{state.parent}:{os.environ['PATH']}", "SHARDNET_STATE": str(state), **settings}
    command = [str(CLOUD / "join"), *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_device_joins_by_a_code_first_and_without_one_later(state: Path) -> None:
    given = {"SHARDNET_CODE": "7-harbour-green", "SHARDNET_ADDRESS": "203.0.113.5:29500", "SHARDNET_NAME": "node"}
    first = called(state, "--threads", "2", SHARDNET_LISTEN="0.0.0.0:29501", **given)
    where = ["--cluster", str(state), "--listen", "0.0.0.0:29501", "--threads", "2"]
    invited = ["-", "--address", "203.0.113.5:29500", "--name", "node"]
    assert first == ["join", *invited, *where, "7-harbour-green"]  # on its input: no list of processes has it
    (state / "host.pem").touch()
    assert called(state, "--threads", "2", SHARDNET_LISTEN="0.0.0.0:29501", **given) == ["join", *where]


def test_the_code_may_be_in_a_file(state: Path) -> None:
    secret = state.parent / "code"
    secret.write_text("SHARDNET:AEBAG\n")
    assert called(state, SHARDNET_CODE_FILE=str(secret)) == ["join", "-", "--cluster", str(state), "SHARDNET:AEBAG"]


def test_without_a_code_it_says_what_is_needed(state: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        called(state)
    assert failed.value.returncode == 2 and "SHARDNET_CODE" in failed.value.stderr


def test_the_unit_is_one_and_calls_what_there_is() -> None:
    [command] = re.findall(r"^ExecStart=(.*)$", UNIT.read_text(), re.MULTILINE)
    program, *arguments = shlex.split(command)
    done = subprocess.run([sys.executable, "-m", "shardnet", *arguments[:1], "--help"], capture_output=True, text=True)
    assert all(option in done.stdout for option in arguments if option.startswith("--"))
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    verified = subprocess.run(["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True)
    complaints = [
        line for line in verified.stderr.splitlines() if UNIT.name in line and f"{program} is not" not in line
    ]
    assert complaints == []
