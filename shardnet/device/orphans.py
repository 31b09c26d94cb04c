"""Notices, on a device, that nobody has a use for a stage any more: it must not stay.

A coordinator that was killed says no goodbye, one that lives may lose the message that ends a stage, and one that has
struck this device off sends none; the stage would keep its weights, KV caches and threads for as long as the device
lives. A coordinator that is only silent is waited for. So is one that is gone, for as long as the stage says: another
process may take its place, and use the stage on. What that one says counts once it has said that it knows the ring.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, NamedTuple

from shardnet.errors import DeviceLost, Evicted
from shardnet.transport.base import Transport
from shardnet.transport.messages import RingId

LOOK_EVERY_S = 1.0
ANSWER_S = 10.0
_log = logging.getLogger(__name__)


class HeldFor(NamedTuple):
    """For whom a device has stages."""

    source: str
    """A coordinator's name."""
    ring_id: RingId
    """The ring that it has them here for."""
    keep_s: float
    """See `StageSpec`."""


class LastWord(NamedTuple):
    """What is known of the coordinator that has a use for a ring."""

    at_s: float
    """When it said so, or when the ring was first seen."""
    number: int | None
    """Of the process that said so; None where none has."""


class Question(NamedTuple):
    """Put to whoever has the coordinator's name."""

    number: int | None
    """Of the process that was asked; None where that is not sure."""
    answer: Future[Any]


def is_of_no_use(question: Question, last: LastWord, now_s: float, keep_s: float) -> bool:
    """Whether what was answered says that nobody has a use for the stages of a ring any more."""
    error = question.answer.exception()
    if isinstance(error, Evicted):
        return True
    is_over = now_s - last.at_s >= keep_s
    if error is None:
        has_known = question.number is not None and question.number == last.number
        return not question.answer.result() and (has_known or is_over)
    # Other errors than this one say little: another process may have the name, and not yet its endpoints.
    return isinstance(error, DeviceLost) and is_over


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
        self._asked: dict[HeldFor, Question] = {}
        self._last: dict[HeldFor, LastWord] = {}
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
                self._look(time.monotonic())
            except Exception as error:  # whatever it is, the next look must come
                _log.error("looking for orphaned stages failed: %s: %s", type(error).__name__, error)

    def _look(self, now_s: float) -> None:
        present = set(self._rings())
        for gone in self._last.keys() - present:
            del self._last[gone]
            self._asked.pop(gone, None)
        for held in present:
            last = self._last.setdefault(held, LastWord(now_s, None))
            question = self._asked.get(held)
            if question is not None and question.answer.done():
                del self._asked[held]
                if is_of_no_use(question, last, now_s, held.keep_s):
                    self._drop(held.ring_id)
                    continue
                if question.answer.exception() is None and question.answer.result():
                    self._last[held] = LastWord(now_s, question.number)
            if held not in self._asked:
                self._asked[held] = self._ask(held)

    def _ask(self, held: HeldFor) -> Question:
        before = self._transport.number_of(held.source)
        answer = self._transport.post(held.source, "holds", held.ring_id, timeout_s=ANSWER_S)
        is_sure = before == self._transport.number_of(held.source)  # or another process took the name meanwhile
        return Question(before if is_sure else None, answer)
