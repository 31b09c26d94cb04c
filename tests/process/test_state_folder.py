"""A folder that one process holds, and that another one may hold as soon as that one is no more."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shardnet.errors import UsageError
from shardnet.process import state_folder
from shardnet.process.state_folder import StateFolder

HOLD = """
import os, sys
from pathlib import Path
from shardnet.process.state_folder import StateFolder
held = StateFolder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def nobody_waits_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_folder, "LET_GO_S", 0.1)


def test_it_is_made_for_this_user_alone(tmp_path: Path) -> None:
    held = StateFolder(tmp_path / "some" / "where")
    assert stat.S_IMODE(held.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((held.path / "lock").stat().st_mode) == 0o600
    held.close()
    held.close()


def test_others_must_not_be_able_to_open_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    with pytest.raises(UsageError, match=f"{tmp_path} must belong to this user and be closed to all others"):
        StateFolder(tmp_path)


def test_one_holds_it_at_a_time(tmp_path: Path) -> None:
    held = StateFolder(tmp_path)
    with pytest.raises(UsageError, match=f"A cluster runs in {tmp_path} already. End it first, or name another"):
        StateFolder(tmp_path)
    held.close()
    StateFolder(tmp_path).close()


def test_it_is_free_as_soon_as_its_process_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where whoever starts the next one does not wait for the end of the first."""
    monkeypatch.setattr(state_folder, "LET_GO_S", 10.0)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGKILL)
        begun_s = time.monotonic()
        StateFolder(tmp_path).close()
        assert time.monotonic() - begun_s < 5


def test_no_file_is_left_open_where_it_cannot_be_held(tmp_path: Path) -> None:
    held = StateFolder(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(UsageError):
            StateFolder(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
    held.close()


@pytest.mark.parametrize("place", ["file", "file/in it", "/proc/nowhere/state"])
def test_where_no_folder_can_be_is_a_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"The folder .* cannot be used: .*\. Name one that can be written\."):
        StateFolder(tmp_path / place)


def test_what_was_half_written_does_not_stay(tmp_path: Path) -> None:
    """By a process that was killed, and where the disk was full: prompts are among it, and it takes room."""
    tmp_path.chmod(0o700)
    (tmp_path / "page.half").write_bytes(b"a prompt")
    (tmp_path / "folder.half").mkdir()
    held = StateFolder(tmp_path)
    assert not (tmp_path / "page.half").exists()
    (tmp_path / "page").mkdir()
    with pytest.raises(OSError):
        held.write("page", b"another prompt")
    assert not (tmp_path / "page.half").exists()
    held.write("other", b"whole")
    assert (tmp_path / "other").read_bytes() == b"whole"
    held.close()
