"""A folder for what outlives a process: for its user alone, held by one process at a time, and never with half a file.

Whoever holds it has a lock on a file in it, which the system takes away when the process ends, in whatever way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from shardnet.errors import UsageError
from shardnet.process import state_format
from shardnet.process.ownership import require_own

LOCK = "lock"
HALF = ".half"
"""Ends the name of a file that is being written."""
LET_GO_S = 1.0
"""How long a process that is just being killed may take to end."""
AGAIN_S = 0.02


class StateFolder:
    """Makes the folder where there is none, and holds it until it is closed.

    Raises:
        UsageError: it cannot be made, others could open it, another process holds it, or what lies in it is of a
            release that does not go with this one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            self._folder: int | None = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as cause:
            raise self._unusable(cause) from cause
        self._lock: int | None = None
        try:
            require_own(self.path, os.fstat(self._folder), stat.S_ISDIR)
            how = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._lock = os.open(LOCK, how, 0o600, dir_fd=self._folder)
            self._hold()
            self._remove_halves()
            self._note_format()
        except OSError as cause:
            self.close()
            raise self._unusable(cause) from cause
        except BaseException:
            self.close()
            raise

    def _hold(self) -> None:
        """Get the lock.

        Raises:
            UsageError: another process has it.
            OSError: there are no locks on this disk.
        """
        assert self._lock is not None
        deadline_s = time.monotonic() + LET_GO_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise UsageError(
                        f"A cluster runs in {self.path} already. End it first, or name another folder."
                    ) from None
            time.sleep(AGAIN_S)

    def _remove_halves(self) -> None:
        """Those of a process that was killed: this one holds the folder."""
        for name in os.listdir(self._folder):
            if name.endswith(HALF):
                with suppress(OSError):  # it is a folder of somebody's
                    os.unlink(name, dir_fd=self._folder)

    def _note_format(self) -> None:
        """Say which release has it now, where this one reads what is there."""
        if not state_format.require_readable(self.path):
            with suppress(OSError):  # the disk is full, say: whoever has to write more says so
                self.write(state_format.NAME, state_format.note())

    def write(self, name: str, content: bytes) -> None:
        """Put a file in place of what there was. When this returns it survives the end of the machine, too; whenever
        that comes earlier, the old one is there or the new one.

        Raises:
            OSError: it cannot be written, or this process holds the folder no longer.
        """
        if self._folder is None:
            raise OSError(errno.EBADF, "this process holds the folder no longer")
        half = f"{name}{HALF}"
        how = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(half, how, 0o600, dir_fd=self._folder), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(half, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError:  # the disk is full, say: then what it holds of this one is only in the way
            with suppress(OSError):
                os.unlink(half, dir_fd=self._folder)
            raise
        os.fsync(self._folder)

    def remove(self, name: str) -> None:
        """Remove a file.

        Raises:
            OSError: there is none, or this process holds the folder no longer.
        """
        if self._folder is None:
            raise OSError(errno.EBADF, "this process holds the folder no longer")
        os.unlink(name, dir_fd=self._folder)

    def close(self) -> None:
        """Hold it no longer. Safe to call twice; in a forked child, the parent goes on holding it."""
        for file in (self._lock, self._folder):
            if file is not None:
                os.close(file)
        self._lock = self._folder = None

    def _unusable(self, cause: OSError) -> UsageError:
        return UsageError(
            f"The folder {self.path} cannot be used: {cause.strerror or cause}. Name one that can be written."
        )
