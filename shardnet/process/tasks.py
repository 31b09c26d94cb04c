"""Tasks of an event loop that nobody waits for: it forgets those that nobody holds."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """Holds each until it has ended."""

    def __init__(self) -> None:
        self._there: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Have this done. What it raises is logged by the loop."""
        task = asyncio.ensure_future(work)
        self._there.add(task)
        task.add_done_callback(self._there.discard)

    def cancel(self) -> None:
        """Cancel all that there are."""
        for task in tuple(self._there):
            task.cancel()
