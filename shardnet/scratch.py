"""Folders that are of use while their maker lives: what a killed process has left is removed by the next one.

A maker holds a lock on its folder, which the system takes away when the process ends, in whatever way. Process ids
would not do: they are used again, and mean nothing in another container that shares the folder above.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path


class ScratchFolder:
    """A new folder in `parent`, called PREFIX and something. Removes first what others of that prefix have left.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, prefix: str, parent: Path) -> None:
        remove_leftovers(prefix, parent)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            self._lock = _lock(self.path, fcntl.LOCK_EX)
            if self.path.is_dir():  # nobody took it for a leftover before it was locked
                return
            self.let_go()

    def let_go(self) -> None:
        """Hold it no longer, as it was removed or has another name by now. Safe to call twice."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.let_go()


def remove_leftovers(prefix: str, parent: Path) -> None:
    """Remove this user's folders of that prefix that nobody holds."""
    with suppress(OSError):
        for path in parent.glob(f"{prefix}*"):
            if path.lstat().st_uid != os.getuid():
                continue
            lock = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock is not None:
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
