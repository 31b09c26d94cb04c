"""A file into which process after process of one kind writes, so that it says why the last one has ended."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import IO

from shardnet.versions import OWN

MOST_BYTES = 2**24
"""Of the file: hundreds of thousands of lines."""


def begun_log(path: Path, what: str) -> IO[bytes]:
    """The file, for a process that is about to be started, behind what earlier ones have written. A file that is full
    begins anew.

    Args:
        what: such a process, in words that follow "a".

    Raises:
        OSError
    """
    output = open(path, "ab", buffering=0)  # noqa: SIM115
    try:
        if os.fstat(output.fileno()).st_size > MOST_BYTES:
            output.truncate(0)
        output.write(f"{now()} a {what} begins, of {OWN.name}\n".encode())
    except OSError:
        output.close()
        raise
    return output


def now() -> str:
    """As it stands before a line."""
    return time.strftime("%Y-%m-%d %H:%M:%S")
