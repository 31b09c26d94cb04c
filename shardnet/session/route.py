"""The way of sessions through a ring, and how its stages are asked."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from shardnet.transport.base import Transport
from shardnet.transport.delivery import answer_of
from shardnet.transport.messages import RingId, RingStop


class Ring(NamedTuple):
    """Where sessions go now: the stages of one plan version, in order."""

    ring_id: RingId
    stops: tuple[RingStop, ...]


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
