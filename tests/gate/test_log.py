"""What a gate writes down does not fill the disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


def test_what_is_no_file_is_written_to_without_end() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], stderr=subprocess.PIPE, check=True)
    assert len(ended.stderr.splitlines()) == NUM_SENTENCES
