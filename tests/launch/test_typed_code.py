"""`shardnet join -`: a code that stands in no list of processes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

PROGRAM = "from shardnet.launch.hosts.typed_code import typed_code; print(typed_code())"


def joined(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shardnet.launch.cli", "join", "-", "--cluster", str(folder)]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


def test_a_code_is_asked_for_at_a_terminal() -> None:
    typing, terminal = pty.openpty()
    os.write(typing, b" 7-harbour-green\n")
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.communicate(timeout=60) == ("7-harbour-green\n", "Code: ")
    os.close(typing)
    os.close(terminal)


def test_join_takes_the_code_from_a_pipe(tmp_path: Path) -> None:
    """As far as that it is none: whoever joins would have to be let in."""
    ended = joined(tmp_path / "state", "7-harbour-gren\nnothing else\n")
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("shardnet: No code has the word 'gren'. ")


def test_no_code_is_one_sentence(tmp_path: Path) -> None:
    for text in ("", "\n7-harbour-green\n"):
        ended = joined(tmp_path / "state", text)
        assert ended.returncode == 2 and ended.stdout == ""
        said = "shardnet: Standard input has no code. Type what the other machine shows, or pipe it in.\n"
        assert ended.stderr == said
