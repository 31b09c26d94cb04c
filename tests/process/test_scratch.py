"""Folders that do not outlive their makers for long."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from shardnet.cluster.local_workers import LOGS, LocalWorkers
from shardnet.loader.gguf.preparing import MAKING
from shardnet.process.scratch import MARK, ScratchFolder, remove_leftovers

MAKER = """
import sys, time
from pathlib import Path
from shardnet.process.scratch import MARK, ScratchFolder
folder = ScratchFolder("making-", Path(sys.argv[1]))
(folder.path / "half").write_text("a")
print(folder.path, flush=True)
time.sleep(100)
"""


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """SIGKILL left `shardnet-logs-*` in the system's temporary folder and `.making-*` in the cache, for good."""
    maker = subprocess.Popen([sys.executable, "-c", MAKER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    left = Path(maker.stdout.readline().strip())
    ScratchFolder("making-", tmp_path).remove()
    assert (left / "half").exists(), "its maker lives"
    maker.kill()
    maker.wait()
    maker.stdout.close()
    (tmp_path / "making-").symlink_to(tmp_path)
    (tmp_path / "making-file").touch()
    folder = ScratchFolder("making-", tmp_path)
    assert not left.exists() and folder.path.is_dir()
    folder.path.rename(tmp_path / "making-done")
    remove_leftovers("making-", tmp_path)
    assert (tmp_path / "making-done").is_dir(), "it is held under any name"
    folder.remove()
    assert (tmp_path / "making-done").is_dir(), "it is no longer this one's"


def test_logs_are_such_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"{LOGS}old"
    left.mkdir()
    (left / MARK).write_text(platform.node())
    own = tmp_path / f"{LOGS}experiment"
    own.mkdir()
    elsewhere = tmp_path / f"{LOGS}elsewhere"
    elsewhere.mkdir()
    (elsewhere / MARK).write_text("another machine")
    workers = LocalWorkers("127.0.0.1:1", ["a"], 1)
    assert workers.log_dir.parent == tmp_path and not left.exists()
    assert own.exists() and elsewhere.exists()
    workers.close()
    assert not workers.log_dir.exists()


def test_a_conversion_removes_what_another_one_left(tmp_path: Path) -> None:
    from tiny_gguf import write_gguf

    from shardnet.loader import open_model

    left = tmp_path / f"{MAKING}old"
    left.mkdir()
    (left / MARK).write_text(platform.node())
    open_model(str(write_gguf(tmp_path / "x.gguf")), "float32", cache_dir=tmp_path)
    assert not list(tmp_path.glob(f"{MAKING}*"))
    assert not list(tmp_path.glob(f"*/{MARK}")), "what is made bears no mark"
