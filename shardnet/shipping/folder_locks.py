"""What processes that share a folder of fetched tensors tell each other about them: a lock on a byte for each root.

The system gives a lock up when its process ends, however that ends. A process may lock what it has locked itself: among
its own threads nothing is decided here.
"""

from __future__ import annotations

import fcntl
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

KEPT = 1 << 48
"""Where the bytes begin that say which tensors stay; those before it say which are being fetched."""


class FolderLocks:
    """Of one process.

    Raises:
        OSError: the folder cannot be written, or its disk has no locks. So do all methods but `close`.
    """

    def __init__(self, folder: Path) -> None:
        self._file = open(folder / "claims", "a+b")  # noqa: SIM115 (locked as long as this lives)

    def claim(self, root: str) -> bool:
        """Whether this process is who fetches a tensor; False while another one does."""
        return self._try(_byte_of(root))

    def release(self, root: str) -> None:
        """It fetches it no more."""
        self._unlock(_byte_of(root))

    def keep(self, root: str) -> None:
        """From now on no other process removes it. Waits for one that is about to."""
        fcntl.lockf(self._file, fcntl.LOCK_SH, 1, KEPT + _byte_of(root))

    def let_go(self, root: str) -> None:
        """Others may remove it."""
        self._unlock(KEPT + _byte_of(root))

    @contextmanager
    def idle(self, roots: Collection[str]) -> Iterator[set[str]]:
        """Those that no other process keeps, and none begins to keep in this block. This one keeps none of `roots`."""
        idle = {root for root in roots if self._try(KEPT + _byte_of(root))}
        try:
            yield idle
        finally:
            for root in idle:
                self.let_go(root)

    def close(self) -> None:
        """Give up all locks."""
        self._file.close()

    def _try(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(self, byte: int) -> None:
        if not self._file.closed:  # then it has none any more
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)


def _byte_of(root: str) -> int:
    return int(root[:12], 16)
