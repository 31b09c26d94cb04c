"""What a gate writes down: sentences on standard error, in a file that strangers cannot make fill the disk."""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress

from shardnet.process.standard_streams import STDERR, say

MOST_BYTES = 2**24
"""Of the file: hundreds of thousands of strangers."""


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
    say(f"{time.strftime('%H:%M:%S')} {sentence}")
