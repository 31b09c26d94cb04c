"""Rows of a text that goes through a ring: asked for at the stage with the head, until all are here."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import torch
from torch import Tensor

from shardnet.errors import BadRequest, KVMemorySpent
from shardnet.session.route import Ring, ask_stage
from shardnet.transport.base import Transport
from shardnet.transport.rows_messages import Rows, RowsAsked, RowsWanted

ASK_S = 2.0
"""After so long without an answer the stage with the head is asked again, then after twice as long."""
PATIENCE_S = 10.0
"""For so long at most whoever asks for rows waits, when none come."""
Fold = Callable[[Iterator[Tensor]], Tensor]
"""What makes one of the rows of a text, which come some at a time."""
MOST_AT_ONCE = 16
"""Texts that go through the ring together."""


class InForce(Protocol):
    """What says through which ring a session goes now."""

    def ring_now(self, until_s: float) -> Ring | None:
        """The present one; None where none is in force before that. Raises what has ended the session's model."""

    def await_answer(self, ring: Ring, answer: Future[Any], until_s: float) -> bool:
        """Wait until it is there; False where another ring takes over before, or so much time has gone by."""

    def await_verdict(self, ring: Ring) -> None:
        """A device of that ring did not do what it should: wait a while for another ring."""


def rows_at_head(
    transport: Transport, in_force: InForce, session: int, first: int, check: Callable[[], None], patience_s: float
) -> Rows:
    """The rows of a session from `first` on, as many as one answer brings; none where none come for so long.

    Args:
        check: raises what has ended the session, if it has ended.

    Raises:
        BadRequest: no such rows are to be had, or they are no numbers.
    """
    until_s = time.monotonic() + patience_s
    while time.monotonic() < until_s:
        ring = in_force.ring_now(until_s)
        if ring is None:
            break
        check()
        given_up = threading.Event()
        wanted, head = RowsWanted(session, first), len(ring.stops) - 1
        answer = ask_stage(transport, ring, head, "read_rows", wanted, ASK_S, is_over=given_up.is_set, is_called=True)
        is_there = in_force.await_answer(ring, answer, until_s)
        given_up.set()
        if not is_there:
            continue
        error = answer.exception()
        if error is None:
            rows: Rows = answer.result()
            if len(rows.rows):
                return rows
            continue
        check()
        in_force.await_verdict(ring)
        if isinstance(error, BadRequest) and in_force.ring_now(until_s) == ring:
            raise error
    check()
    return Rows(first, torch.empty(0, 0))


class Reading(Protocol):
    """A text whose rows are read: its session."""

    def rows_from(self, first: int, patience_s: float = PATIENCE_S) -> Rows:
        """See `rows_at_head`. Raises what has ended the session."""

    def cancel(self) -> None:
        """Free its memory."""


def rows_of(reading: Reading, num_tokens: int, asked: RowsAsked) -> Iterator[Tensor]:
    """All that were asked for, some at a time and in order; then the session ends."""
    try:
        first = asked.first
        while first < num_tokens:
            came = reading.rows_from(first).rows
            if len(came):
                yield came
            first += len(came)
    finally:
        reading.cancel()


def whole(rows: Iterator[Tensor]) -> Tensor:
    """All rows of a text, [T, W]."""
    return torch.cat(list(rows))


def mean(rows: Iterator[Tensor]) -> Tensor:
    """Of all rows of a text, [1, W]: no more than some of them are here at a time."""
    num_rows, total = 0, torch.zeros(1)
    for some in rows:
        num_rows += len(some)
        total = total + some.sum(dim=0, keepdim=True)
    return total / num_rows


def read_all(
    open_one: Callable[[Sequence[int], RowsAsked], Reading],
    texts: Sequence[tuple[Sequence[int], RowsAsked]],
    fold: Fold = whole,
) -> Iterator[Tensor]:
    """Of each text, in their order, the rows that were asked for. Several go through the ring together, as many as
    there is memory for.

    Args:
        fold: what is made of those of one text.

    Raises:
        KVMemorySpent: there is none for one of them alone.
    """
    waiting, under_way = deque(texts), deque[tuple[Reading, int, RowsAsked]]()
    try:
        while waiting or under_way:
            while waiting and len(under_way) < MOST_AT_ONCE:
                ids, asked = waiting[0]
                try:
                    under_way.append((open_one(ids, asked), len(ids), asked))
                except KVMemorySpent:
                    if not under_way:
                        raise
                    break
                waiting.popleft()
            yield fold(rows_of(*under_way.popleft()))
    finally:
        for reading, _, _ in under_way:
            reading.cancel()
