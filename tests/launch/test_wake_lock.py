"""A phone is kept awake while it is a device."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shardnet.launch.cluster import wake_lock
from shardnet.launch.cluster.wake_lock import LOCK, UNLOCK, awake


def put(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho {name} >>'{folder}/notes'\n{script}\n")
    program.chmod(0o755)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "notes").write_text("")
    return tmp_path


def test_the_lock_is_taken_and_given_back_whatever_happens(folder: Path) -> None:
    for name in (LOCK, UNLOCK):
        put(folder, name, "")
    with pytest.raises(KeyboardInterrupt):
        with awake(pytest.fail):
            assert (folder / "notes").read_text().split() == [LOCK]
            raise KeyboardInterrupt
    assert (folder / "notes").read_text().split() == [LOCK, UNLOCK]


def test_elsewhere_nothing_happens(folder: Path) -> None:
    with awake(pytest.fail):
        assert (folder / "notes").read_text() == ""


@pytest.mark.parametrize("script", ["exit 1", "sleep 60"])
def test_one_that_cannot_be_taken_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(wake_lock, "COMMAND_S", 0.3)
    put(folder, LOCK, script)
    told = []
    with awake(lambda: told.append(True)):
        assert told == [True]
