"""What a gate writes down does not fill the disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shardnet.gate import log
from shardnet.gate.log import begun_log
from shardnet.versions import OWN

NUM_SENTENCES = 1000
SCRIPT = f"""
from shardnet.gate import log
log.MOST_BYTES = 10_000
for number in range({NUM_SENTENCES}):
    log.log(f"stranger {{number}}: does not speak TLS")
"""


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_a_log_that_is_full_begins_anew(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "gate.log"
    with open(path, mode) as output:
        subprocess.run([sys.executable, "-c", SCRIPT], stderr=output, check=True)
    lines = path.read_text().splitlines()
    assert path.stat().st_size < 11_000
    assert lines[0].endswith("what was here before had become too much, and is gone")
    numbers = [int(line.split()[3].rstrip(":")) for line in lines[1:]]
    assert numbers == list(range(numbers[0], NUM_SENTENCES))


def test_what_an_earlier_gate_has_said_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why it ended was lost when the next one began."""
    path = tmp_path / "gate.log"
    path.write_text("12:00:00 the disk is full\n")
    with begun_log(path) as output:
        output.write(b"another\n")
    earlier, begins, later = path.read_text().splitlines()
    assert (earlier, later) == ("12:00:00 the disk is full", "another")
    assert begins.endswith(f"a gate begins, of {OWN.name}")
    monkeypatch.setattr(log, "MOST_BYTES", 20)
    with begun_log(path):
        assert [line.split()[2:4] for line in path.read_text().splitlines()] == [["a", "gate"]]


def test_what_is_no_file_is_written_to_without_end() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], stderr=subprocess.PIPE, check=True)
    assert len(ended.stderr.splitlines()) == NUM_SENTENCES
