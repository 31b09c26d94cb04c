"""Keeps a door's roster in its folder: what was written there outlives the process, and only that may be told."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from shardnet.errors import ClusterError
from shardnet.process.state_folder import StateFolder
from shardnet.transport.door.roster import Roster
from shardnet.transport.door.roster_file import NAME, file_of


class Keeper:
    """Writes the roster, all of it each time: many changes that wait for a writing share the next one.

    Args:
        folder: None where nothing has to outlive this process.
    """

    def __init__(self, roster: Roster, folder: StateFolder | None) -> None:
        self._roster = roster
        self._folder = folder
        self._num_kept = 0
        self._writing = asyncio.Lock()
        self._writer = ThreadPoolExecutor(1, "shardnet-roster")  # a disk may take its time, and the door must not

    async def keep(self) -> None:
        """Return when all that has changed so far would outlive this process.

        Raises:
            ClusterError: it cannot be written.
        """
        roster, wanted = self._roster, self._roster.num_changes
        if self._folder is None:
            roster.kept = roster.version
            return
        async with self._writing:
            if self._num_kept >= wanted:
                return
            now, version, content = roster.num_changes, roster.version, file_of(roster)
            try:
                await asyncio.get_running_loop().run_in_executor(self._writer, self._folder.write, NAME, content)
            except (OSError, RuntimeError) as cause:  # RuntimeError: the door, or this Python, is being closed
                reason = getattr(cause, "strerror", None) or str(cause)
                raise ClusterError(
                    f"The door cannot write to {self._folder.path}: {reason}. Look at that folder and its disk."
                ) from cause
            self._num_kept, roster.kept = now, version

    def close(self) -> None:
        """Write nothing more; waits for what is being written."""
        self._writer.shutdown(wait=True)
