"""Where a stage's results go: straight to the next stage of its ring, and what was sampled to the source.

Everything is sent again until it is answered, and ends with the stage. A hop that does not arrive is told to the
coordinator, which knows better whether somebody died.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

from shardnet.errors import BadRequest
from shardnet.timeline.timeline import clock_ns
from shardnet.transport.base import Transport
from shardnet.transport.delivery import send_until_answered
from shardnet.transport.messages import Hop, Part, SampledToken, StageSpec, Tokens

HOP_S = 2.0
"""What is answered at once is sent again after this, then after twice as long."""
HOP_TRIES = 6
"""After two minutes without an answer the ring is taken for broken; a lost device is noticed by other means."""
BULK_HOP_S = 15.0
"""The same for a prompt chunk, which may wait for its turn at the next stage, and without a limit."""


class RingOutlet:
    """Implements `stage.Outlet` over a transport.

    Args:
        is_over: whether the stage has ended.
    """

    def __init__(self, transport: Transport, spec: StageSpec, is_over: Callable[[], bool]) -> None:
        self._transport = transport
        self._ring_id = spec.ring_id
        self._stage = spec.stage
        self._source = spec.source
        self._is_over = is_over
        self._next_stage = (spec.stage + 1) % len(spec.ring)
        self._next_device = spec.ring[self._next_stage].device

    def hop(self, parts: tuple[Part, ...], rows: torch.Tensor) -> None:
        hop = self._to_next(parts, rows)

        def send(wait_s: float) -> Future[Any]:
            return self._transport.post(self._next_device, "hop", hop, timeout_s=wait_s)

        send_until_answered(send, self._check, first_s=HOP_S, most_tries=HOP_TRIES, is_over=self._is_over)

    def bulk_hop(self, parts: tuple[Part, ...], rows: torch.Tensor, on_taken: Callable[[], None]) -> None:
        hop = self._to_next(parts, rows)

        def send(wait_s: float) -> Future[Any]:
            return self._transport.call(self._next_device, "bulk_hop", hop, timeout_s=wait_s)

        def done(sent: Future[Any]) -> None:
            self._check(sent)
            on_taken()

        send_until_answered(send, done, first_s=BULK_HOP_S, is_over=self._is_over)

    def tokens(self, tokens: tuple[SampledToken, ...]) -> None:
        self._tell("tokens", Tokens(self._ring_id, tokens))

    def session_failed(self, session: int, error: BadRequest) -> None:
        self._tell("session_failed", self._ring_id, session, str(error))

    def failed(self, error: BaseException) -> None:
        self._tell_failed(self._stage, self._transport.name, f"{type(error).__name__}: {error}")

    def _tell(self, endpoint: str, *args: Any) -> None:
        """Tell the source. Once, a message that was lost here left a session waiting for its token for ever."""

        def send(wait_s: float) -> Future[Any]:
            return self._transport.post(self._source, endpoint, *args, timeout_s=wait_s)

        send_until_answered(send, _ignore, first_s=HOP_S, is_over=self._is_over)

    def _tell_failed(self, stage: int, device: str, text: str) -> None:
        self._tell("stage_failed", self._ring_id, stage, device, text)

    def _to_next(self, parts: tuple[Part, ...], rows: torch.Tensor) -> Hop:
        return Hop(self._ring_id, self._next_stage, parts, rows, self._transport.name, clock_ns())

    def _check(self, sent: Future[Any]) -> None:
        error = sent.exception()
        if error is not None and not self._is_over():
            self._tell_failed(self._next_stage, self._next_device, str(error))


def _ignore(sent: Future[Any]) -> None:
    """A source that is gone needs no news; its device drops the stage (`orphans`)."""
