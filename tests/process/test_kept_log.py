"""What processes of one kind write down one after the other stays, within a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardnet.process import kept_log
from shardnet.process.kept_log import begun_log
from shardnet.versions import OWN


def test_what_an_earlier_one_has_said_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why it ended was lost when the next one began."""
    path = tmp_path / "gate.log"
    path.write_text("12:00:00 the disk is full\n")
    with begun_log(path, "gate") as output:
        output.write(b"another\n")
    earlier, begins, later = path.read_text().splitlines()
    assert (earlier, later) == ("12:00:00 the disk is full", "another")
    assert begins.endswith(f"a gate begins, of {OWN.name}")
    monkeypatch.setattr(kept_log, "MOST_BYTES", 20)
    with begun_log(path, "gate"):
        assert [line.split()[2:4] for line in path.read_text().splitlines()] == [["a", "gate"]]
