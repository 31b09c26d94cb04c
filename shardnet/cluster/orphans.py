"""Notices, on a device, that the coordinator of a stage is no more: a stage that nobody can use must not stay.

A coordinator that was killed says no goodbye, and its stages would keep their weights, KV caches and threads for as
long as the device lives. One that is only silent is waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from shardnet.errors import DeviceLost
from shardnet.transport.base import Transport

LOOK_EVERY_S = 1.0
ANSWER_S = 10.0

Coordinator = tuple[str, bytes]
"""Its name in the cluster, and the epoch that it has given its rings."""


class OrphanWatch:
    """Asks, every second, the coordinators of a device's stages whether they still are.

    Args:
        coordinators: those of the stages that the device has now.
        drop: called on the watching thread with the epoch of one that is no more.
    """

    def __init__(
        self, transport: Transport, coordinators: Callable[[], Iterable[Coordinator]], drop: Callable[[bytes], None]
    ) -> None:
        self._transport = transport
        self._coordinators = coordinators
        self._drop = drop
        self._asked: dict[Coordinator, Future[Any]] = {}
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shardnet-orphans", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching. Safe to call twice."""
        self._is_closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closed.wait(LOOK_EVERY_S):
            present = set(self._coordinators())
            for coordinator in list(self._asked):
                if coordinator not in present:
                    del self._asked[coordinator]
            for coordinator in present:
                self._look(coordinator)

    def _look(self, coordinator: Coordinator) -> None:
        name, epoch = coordinator
        asked = self._asked.get(coordinator)
        if asked is not None and asked.done():
            del self._asked[coordinator]
            # Another error than this one says little: another process may have the name, and not yet its endpoints.
            is_gone = isinstance(asked.exception(), DeviceLost) or (asked.exception() is None and not asked.result())
            if is_gone:
                self._drop(epoch)
                return
        if coordinator not in self._asked:
            self._asked[coordinator] = self._transport.post(name, "coordinates", epoch, timeout_s=ANSWER_S)
