"""What a gate writes down: sentences on standard error, in a file that strangers cannot make fill the disk."""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from shardnet.process.standard_streams import STDERR, say
from shardnet.versions import OWN

MOST_BYTES = 2**24
"""Of the file: hundreds of thousands of strangers."""


def begun_log(path: Path) -> IO[bytes]:
    """The file, for a gate that is about to be started, behind what earlier ones have written: why one has ended may
    stand there. A file that is full begins anew.

    Raises:
        OSError
    """
    output = open(path, "ab", buffering=0)  # noqa: SIM115
    try:
        if os.fstat(output.fileno()).st_size > MOST_BYTES:
            output.truncate(0)
        output.write(f"{_now()} a gate begins, of {OWN.name}\n".encode())
    except OSError:
        output.close()
        raise
    return output


def log(sentence: str) -> None:
    """Write a sentence. A file that is full begins anew."""
    with suppress(OSError):
        if _is_full():
            os.ftruncate(STDERR, 0)
            os.lseek(STDERR, 0, os.SEEK_SET)
            _say("what was here before had become too much, and is gone")
        _say(sentence)


def _is_full() -> bool:
    status = os.fstat(STDERR)
    return stat.S_ISREG(status.st_mode) and status.st_size > MOST_BYTES


def _say(sentence: str) -> None:
    say(f"{_now()} {sentence}")


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
