"""Notices, on a device, that nobody has a use for a stage any more: it must not stay.

A coordinator that was killed says no goodbye, one that lives may lose the message that ends a stage, and one that has
struck this device off sends none; the stage would keep its weights, KV caches and threads for as long as the device
lives. A coordinator that is only silent is waited for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from shardnet.errors import DeviceLost, Evicted
from shardnet.transport.base import Transport
from shardnet.transport.messages import RingId

LOOK_EVERY_S = 1.0
ANSWER_S = 10.0

HeldFor = tuple[str, RingId]
"""A coordinator's name, and the ring that it has a stage here for."""
_log = logging.getLogger(__name__)


class OrphanWatch:
    """Asks, every second, the coordinators of a device's stages whether they have a use for them.

    Args:
        rings: those that the device has stages of now.
        drop: called on the watching thread with a ring that is no more.
    """

    def __init__(
        self, transport: Transport, rings: Callable[[], Iterable[HeldFor]], drop: Callable[[RingId], None]
    ) -> None:
        self._transport = transport
        self._rings = rings
        self._drop = drop
        self._asked: dict[HeldFor, Future[Any]] = {}
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shardnet-orphans", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching. Safe to call twice."""
        self._is_closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closed.wait(LOOK_EVERY_S):
            try:
                self._look()
            except Exception as error:  # whatever it is, the next look must come
                _log.error("looking for orphaned stages failed: %s: %s", type(error).__name__, error)

    def _look(self) -> None:
        present = set(self._rings())
        for gone in self._asked.keys() - present:
            del self._asked[gone]
        for held in present:
            asked = self._asked.get(held)
            if asked is not None and asked.done():
                del self._asked[held]
                if _is_of_no_use(asked):
                    self._drop(held[1])
                    continue
            if held not in self._asked:
                self._asked[held] = self._transport.post(held[0], "holds", held[1], timeout_s=ANSWER_S)


def _is_of_no_use(asked: Future[Any]) -> bool:
    """Other errors than these say little: another process may have the name, and not yet its endpoints."""
    error = asked.exception()
    return not asked.result() if error is None else isinstance(error, (DeviceLost, Evicted))
