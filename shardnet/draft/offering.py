"""How offers come to the ring's first stage: straight, a few at a time, and to wherever it is by now.

An offer is told once. Each says all that is offered at that moment, so of those that could not be told yet only the
newest one is. A session that does not begin there has ended, or begins elsewhere by now: that is looked for, and offers
for other answers go on meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from shardnet.errors import ShardnetError
from shardnet.process.threads import on_thread
from shardnet.transport.base import Transport
from shardnet.transport.offer_messages import Offer

ANSWER_S = 2.0
MOST_OPEN = 4
"""Offers of one answer that are not answered: over a link with a round trip of 100 ms, 40 a second."""
LOOK_EVERY_S = 1.0


class FirstStage:
    """Where a model's first stage is. Safe to use from several threads.

    Args:
        where: says on which device; may wait.
    """

    def __init__(self, transport: Transport, where: Callable[[], str]) -> None:
        self._transport = transport
        self._where = where
        self._lock = threading.Lock()
        self._device: str | None = None
        self._is_looking = False
        self._looked_s = -LOOK_EVERY_S

    def tell(self, offer: Offer) -> Future[Any] | None:
        """Offer it there; None where it is not known at the moment where that is."""
        device = self._device
        if device is None:
            self._look()
            return None
        try:
            told = self._transport.post(device, "offer", offer, timeout_s=ANSWER_S)
        except ShardnetError:  # the cluster was closed here
            return None
        told.add_done_callback(partial(self._was_told, device))
        return told

    def _was_told(self, device: str, told: Future[Any]) -> None:
        if told.exception() is None:
            if not told.result():
                self._look()
            return
        with self._lock:
            if self._device == device:
                self._device = None

    def _look(self) -> None:
        """Ask where it is, on another thread, and not too often."""
        with self._lock:
            if self._is_looking or time.monotonic() - self._looked_s < LOOK_EVERY_S:
                return
            self._is_looking = True
        on_thread("shardnet-first-stage", self._find)

    def _find(self) -> None:
        device = None
        try:
            device = self._where()
        except ShardnetError:
            pass  # nobody knows: the answer says why
        finally:
            with self._lock:
                self._device = device or self._device
                self._is_looking, self._looked_s = False, time.monotonic()


class Offering:
    """Of one answer. Safe to use from several threads."""

    def __init__(self, first_stage: FirstStage) -> None:
        self._first_stage = first_stage
        self._lock = threading.Lock()
        self._num_open = 0
        self._waiting: Offer | None = None

    def tell(self, offer: Offer) -> None:
        """Offer it, or once others were answered the newest that there is then. Does not wait."""
        with self._lock:
            if self._num_open >= MOST_OPEN:
                self._waiting = offer
                return
            self._num_open += 1
            self._waiting = None
        told = self._first_stage.tell(offer)
        if told is None:
            self._is_answered()
        else:
            told.add_done_callback(self._was_told)

    def _was_told(self, told: Future[Any]) -> None:
        waiting = self._is_answered()
        if waiting is not None and told.exception() is None:
            self.tell(waiting)

    def _is_answered(self) -> Offer | None:
        with self._lock:
            self._num_open -= 1
            waiting, self._waiting = self._waiting, None
            return waiting
