"""Where a stage's results go: straight to the next stage of its ring, and what was sampled to the source.

Everything is sent again until it is answered, and ends with the stage. A hop that does not arrive is told to the
coordinator, which knows better whether somebody died.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import torch

from shardnet.device.source_news import SourceNews
from shardnet.errors import BadRequest
from shardnet.timeline.clocks import clock_ns
from shardnet.transport.base import Transport
from shardnet.transport.delivery import Delivery
from shardnet.transport.messages import Hop, Part, SampledToken, StageSpec

HOP_S = 2.0
"""What is answered at once is sent again after this, then after twice as long."""
HOP_TRIES = 6
"""After two minutes without an answer the ring is taken for broken; a lost device is noticed by other means."""
BULK_HOP_S = 15.0
"""The same for a prompt chunk, which may wait for its turn at the next stage, and without a limit."""
SLOWEST_BYTES_PER_S = 10_000
"""Of a link: what is still on its way over such a one is not sent again."""


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
        self._news = SourceNews(transport, spec.source, spec.ring_id, is_over, self.failed)

    def hop(self, parts: tuple[Part, ...], rows: torch.Tensor) -> None:
        Delivery(
            partial(self._send_hop, parts, rows),
            self._check,
            first_s=HOP_S + rows.nbytes / SLOWEST_BYTES_PER_S,
            most_tries=HOP_TRIES,
            is_over=self._is_over,
        ).begin()

    def bulk_hop(self, parts: tuple[Part, ...], rows: torch.Tensor, on_taken: Callable[[], None]) -> None:
        Delivery(
            partial(self._send_bulk_hop, parts, rows),
            partial(self._bulk_was_answered, on_taken),
            first_s=BULK_HOP_S + rows.nbytes / SLOWEST_BYTES_PER_S,
            is_over=self._is_over,
        ).begin()

    def tokens(self, tokens: tuple[SampledToken, ...]) -> None:
        self._news.tokens(tokens)

    def session_failed(self, session: int, error: BadRequest) -> None:
        self._news.session_failed(session, str(error))

    def failed(self, error: BaseException) -> None:
        self._tell_failed(self._stage, self._transport.name, f"{type(error).__name__}: {error}")

    def _send_hop(self, parts: tuple[Part, ...], rows: torch.Tensor, wait_s: float) -> Future[Any]:
        return self._transport.post(self._next_device, "hop", self._to_next(parts, rows), timeout_s=wait_s)

    def _send_bulk_hop(self, parts: tuple[Part, ...], rows: torch.Tensor, wait_s: float) -> Future[Any]:
        return self._transport.call(self._next_device, "bulk_hop", self._to_next(parts, rows), timeout_s=wait_s)

    def _bulk_was_answered(self, on_taken: Callable[[], None], sent: Future[Any]) -> None:
        self._check(sent)
        on_taken()

    def _check(self, sent: Future[Any]) -> None:
        error = sent.exception()
        if error is not None and not self._is_over():
            self._tell_failed(self._next_stage, self._next_device, str(error))

    def _tell_failed(self, stage: int, device: str, text: str) -> None:
        Delivery(partial(self._send_failed, stage, device, text), _heard, first_s=HOP_S, is_over=self._is_over).begin()

    def _send_failed(self, stage: int, device: str, text: str, wait_s: float) -> Future[Any]:
        return self._transport.post(self._source, "stage_failed", self._ring_id, stage, device, text, timeout_s=wait_s)

    def _to_next(self, parts: tuple[Part, ...], rows: torch.Tensor) -> Hop:
        """With the time of this try: the receiver reckons by it how long the hop was on its way."""
        return Hop(self._ring_id, self._next_stage, parts, rows, self._transport.name, clock_ns())


def _heard(_: Future[Any]) -> None:
    """A coordinator that is gone needs no news: its device drops the stage (`orphans`)."""
