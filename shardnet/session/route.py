"""The way of sessions through a ring, and how its stages are asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import accumulate
from typing import Any, NamedTuple

import torch

from shardnet.timeline.clocks import clock_ns
from shardnet.transport.base import Transport
from shardnet.transport.delivery import answer_of
from shardnet.transport.messages import Hop, Part, RingId, RingStop
from shardnet.transport.session_messages import SessionSpec

OPEN_SESSION_S = 5.0
OPEN_SESSION_TRIES = 4
"""After 5, 10, 20 and 40 s a stage that does not say whether it has room is given up."""


class Ring(NamedTuple):
    """Where sessions go now: the stages of one plan version, in order."""

    ring_id: RingId
    stops: tuple[RingStop, ...]


def uncut(ring: Ring, num_tokens: int) -> list[int]:
    """The sizes of the chunks in which the source hands ids to the first stage, which makes them no larger: one."""
    return [num_tokens]


def parts_of(session: int, position: int, chunks: Sequence[int]) -> tuple[Part, ...]:
    """Of a session's ids from `position` on, a part for each chunk. No step takes two of one session."""
    begins = accumulate(chunks[:-1], initial=position)
    return tuple(Part(session, begin, num_tokens) for begin, num_tokens in zip(begins, chunks, strict=True))


def send_ids(
    transport: Transport, ring: Ring, parts: tuple[Part, ...], ids: torch.Tensor, wait_s: float
) -> Future[Any]:
    """Hand token ids [sum of the parts] to the first stage; done when it has begun on the last of them."""
    hop = Hop(ring.ring_id, 0, parts, ids, transport.name, clock_ns(), unit=0)
    return transport.call(ring.stops[0].device, "bulk_hop", hop, timeout_s=wait_s)


def ask_stage(
    transport: Transport,
    ring: Ring,
    stage: int,
    endpoint: str,
    what: Any,
    first_s: float,
    *,
    is_over: Callable[[], bool],
    most_tries: int | None = None,
    is_called: bool = False,
) -> Future[Any]:
    """Ask a stage of a ring until it answers.

    Args:
        first_s: after so long it is asked again; then the double, and so on.
        is_called: the stage may answer when its present step has ended.
    """
    ring_id, stops = ring
    device = stops[stage].device

    def send(wait_s: float) -> Future[Any]:
        ask = transport.call if is_called else transport.post
        return ask(device, endpoint, ring_id, stage, what, timeout_s=wait_s)

    return answer_of(send, first_s=first_s, most_tries=most_tries, is_over=is_over)


def open_in(
    transport: Transport, ring: Ring, stage: int, spec: SessionSpec, is_over: Callable[[], bool]
) -> Future[Any]:
    """Open a session on one stage of a ring; asked until it answers."""
    return ask_stage(
        transport,
        ring,
        stage,
        "open_session",
        spec,
        OPEN_SESSION_S,
        is_over=is_over,
        most_tries=OPEN_SESSION_TRIES,
        is_called=spec.shares is not None or bool(spec.sampling.grammar),
    )


def close_in(transport: Transport, ring: Ring, sessions: tuple[int, ...]) -> None:
    """Tell all stages of a ring once to free sessions, where there are any."""
    for index, stop in enumerate(ring.stops if sessions else ()):
        transport.post(stop.device, "close_sessions", ring.ring_id, index, sessions)
