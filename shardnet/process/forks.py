"""A fork copies a process without its threads: what has threads and connections works where it was made alone."""

from __future__ import annotations

import os

from shardnet.errors import UsageError


class Birthplace:
    """The process that made something."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid = os.getpid()

    @property
    def is_here(self) -> bool:
        """False in a forked child, where ends must be left to the parent."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """To be asked before any lock, which a thread may have held at the fork, and nobody releases in the child.

        Raises:
            UsageError: this is a forked child.
        """
        if not self.is_here:
            raise UsageError(
                f"{self._what} belongs to process {self._pid} and cannot be used in a child that was forked from it. "
                'Start the child by "spawn" (multiprocessing.get_context("spawn")), or fork before the cluster is made '
                "and make it in the child."
            )
