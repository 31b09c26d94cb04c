"""Folders that are of use while their maker lives: what a killed process has left is removed by the next one.

A maker holds a lock on its folder, which the system takes away when the process ends, in whatever way. Process ids
would not do: they are used again, and mean nothing in another container that shares the folder above. Only what bears
the mark of a maker on this machine is removed: the rest is a user's own.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

MARK = ".shardnet-scratch"
"""A file that names the machine of the maker: over a shared disk, locks of other machines may not be seen."""


class ScratchFolder:
    """A new folder in `parent`, called PREFIX and something. Removes first what others of that prefix have left.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, prefix: str, parent: Path) -> None:
        remove_leftovers(prefix, parent)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._lock = _lock(self.path, fcntl.LOCK_EX)
        if self._lock is not None:  # once it is held, it may bear the mark
            (self.path / MARK).write_text(platform.node())

    def let_go(self) -> None:
        """Hold it no longer, as it was removed or has another name by now. Safe to call twice."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with suppress(FileNotFoundError):
                os.unlink(MARK, dir_fd=lock)
            os.close(lock)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.let_go()


def remove_leftovers(prefix: str, parent: Path) -> None:
    """Remove this user's folders of that prefix that nobody holds."""
    for path in list(parent.glob(f"{prefix}*")):
        lock = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock is None:
            continue
        with suppress(OSError):
            if path.lstat().st_uid == os.geteuid() and (path / MARK).read_text() == platform.node():
                shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _lock(path: Path, how: int) -> int | None:
    """A lock on a folder; None where it is somebody else's, gone, or on a disk that has no locks."""
    folder = None
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(folder, how)
    except OSError:
        if folder is not None:
            os.close(folder)
        return None
    return folder
