"""A limit on the memory of a process: a control group of the first version, where the system has them. Needs root."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup/memory")
PROCESS_BYTES = 256 * 2**20
"""What a device's process takes beside its models: Python, torch, its share of pages that were forked and changed."""


class MemoryGroup:
    """
    Raises:
        OSError: there are no such groups here, or none can be made.
    """

    def __init__(self, name: str, num_bytes: int) -> None:
        if not (GROUPS / "memory.limit_in_bytes").exists():
            raise FileNotFoundError(f"{GROUPS} has no control groups of the first version")
        self._folder = GROUPS / name
        self._folder.mkdir()
        try:
            (self._folder / "memory.limit_in_bytes").write_text(str(num_bytes + PROCESS_BYTES))
        except OSError:
            self.remove()
            raise

    def enter(self) -> None:
        """From now on what this process takes counts."""
        (self._folder / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """Once its processes have ended."""
        with suppress(OSError):
            self._folder.rmdir()
