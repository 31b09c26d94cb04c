"""What a gate writes down: sentences on standard error, in a file that strangers cannot make fill the disk."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from shardnet.process.kept_log import MOST_BYTES, now
from shardnet.process.standard_streams import STDERR, say


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
    say(f"{now()} {sentence}")
