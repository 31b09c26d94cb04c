"""The key by which this user's processes know each other at a door that others could reach, too.

A file of 32 random bytes that only the user can read, in a folder that only the user can open, in the user's home:
containers and network namespaces of the same user work as long as they share that folder.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from shardnet.errors import UsageError
from shardnet.process.ownership import require_own

KEY_BYTES = 32
FOLDER = "~/.config/shardnet"
NAME = "door.key"


def own_key() -> bytes:
    """The key, made at first use.

    Raises:
        UsageError: it cannot be made or read, or others could read it.
    """
    folder = Path(os.path.expanduser(FOLDER))
    if not folder.is_absolute():
        raise UsageError("There is no home folder for the key of this user's clusters. Set HOME.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        require_own(folder, folder.lstat(), stat.S_ISDIR)
        with suppress(FileNotFoundError):
            return _read(folder / NAME)
        _make(folder / NAME)
        return _read(folder / NAME)
    except OSError as cause:
        raise UsageError(f"The key {folder / NAME} cannot be made or read: {cause.strerror}.") from cause


def _read(path: Path) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as opened:
        require_own(path, os.fstat(file))
        key = opened.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise UsageError(f"The key {path} is damaged. Remove it: a new one is made.")
    return key


def _make(path: Path) -> None:
    """Whole or not at all, and once, however many begin at the same time. Android has no hard links, but locks."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if os.path.lexists(path):
            return
        half = path.with_suffix(".half")  # of a process that was killed, at most
        file = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "wb") as opened:
            opened.write(secrets.token_bytes(KEY_BYTES))
        os.replace(half, path)
    finally:
        os.close(folder)
