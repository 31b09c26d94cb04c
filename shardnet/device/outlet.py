"""Where a stage's results go: straight to the next stage of its ring, and what was sampled to the source.

Everything is sent again until it is answered, but for what listeners hear, and ends with the stage. A hop that does not
arrive is told to the coordinator, which knows better whether somebody died, and so is that the next device does not
answer at all. What was still on its way when the stage was rewired to another ring, and was refused for that, goes on
in the new one; what is told to the coordinator likewise. Each hop says for which unit it is, so that it does no harm
where stages have other units by then.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

import torch

from shardnet.device.hop_times import HopTimes
from shardnet.device.listeners import Listeners
from shardnet.device.source_news import Place, SourceNews
from shardnet.errors import BadRequest, CallTimeout, DeviceLost, PlanNotInForce
from shardnet.timeline.clocks import clock_ns
from shardnet.transport.base import Transport
from shardnet.transport.delivery import Delivery
from shardnet.transport.listener_messages import StraightTokens
from shardnet.transport.messages import Hop, Part, StageSpec
from shardnet.transport.session_messages import SampledToken

HOP_S = 2.0
"""What is answered at once is sent again after this, then after twice as long."""
HOP_TRIES = 6
"""After two minutes without an answer the ring is taken for broken; a lost device is noticed by other means."""
BULK_HOP_S = 15.0
"""The same for a prompt chunk, which may wait for its turn at the next stage, and without a limit."""
LOOK_EVERY_S = 2.0
"""As long as a prompt chunk waits, the next device is asked now and then whether it is there."""
BUSY_S = 5.0
"""How long it may take to say so on a link that is full of prompts."""
SLOWEST_BYTES_PER_S = 10_000
"""Of a link: what is still on its way over such a one is not sent again."""


class Load(NamedTuple):
    """What a hop brings."""

    parts: tuple[Part, ...]
    rows: torch.Tensor
    unit: int
    """For which it is."""


class RingOutlet:
    """Implements `stage.Outlet` over a transport.

    Args:
        spec: the stage's place in its ring.
        is_over: whether the stage has ended.
    """

    def __init__(self, transport: Transport, spec: StageSpec, is_over: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_over = is_over
        self._place = Place(spec)
        self._listeners = Listeners(transport)
        self._news = SourceNews(transport, self._place, is_over, self.failed)
        self.hop_times = HopTimes()
        self._unit = 0
        self._is_asking = False
        """Whether the next device is there."""

    @property
    def _spec(self) -> StageSpec:
        return self._place.spec

    def rewire(self, spec: StageSpec) -> None:
        """From now on results go the way that `spec` says. Runs between two steps."""
        self._place.rewire(spec)

    def send_for(self, unit: int) -> None:
        """From now on what is sent is for that unit: see `Shard.next_unit`. Runs between two steps."""
        self._unit = unit

    def follow(self, other: RingOutlet) -> None:
        """The stage is part of another one: what it has still to tell goes the way of that one, always."""
        self._place.follow(other._place)

    def hop(self, parts: tuple[Part, ...], rows: torch.Tensor) -> None:
        self._send(Load(parts, rows, self._unit))

    def bulk_hop(self, parts: tuple[Part, ...], rows: torch.Tensor, on_taken: Callable[[], None]) -> None:
        self._send_bulk(Load(parts, rows, self._unit), on_taken)

    def _send(self, load: Load) -> None:
        spec = self._spec
        Delivery(
            partial(self._send_hop, spec, load),
            partial(self._was_answered, spec, partial(self._send, load), _nothing),
            first_s=_first_s(HOP_S, load.rows.nbytes),
            most_tries=HOP_TRIES,
            is_over=self._is_over,
        ).begin()

    def _send_bulk(self, load: Load, on_taken: Callable[[], None]) -> None:
        spec = self._spec
        bytes_before = self.hop_times.bulk_bytes(spec.ring[_next_stage(spec)].device)
        Delivery(
            partial(self._send_bulk_hop, spec, load),
            partial(self._was_answered, spec, partial(self._send_bulk, load, on_taken), on_taken),
            first_s=_first_s(BULK_HOP_S, bytes_before + load.rows.nbytes),
            is_over=self._is_over,
        ).begin()

    def tokens(self, tokens: tuple[SampledToken, ...]) -> None:
        self._news.tokens(tokens)

    def straight(self, member: str, tokens: StraightTokens) -> None:
        self._listeners.tell(member, tokens)

    def session_failed(self, session: int, error: BadRequest) -> None:
        self._news.session_failed(session, str(error))

    def failed(self, error: BaseException) -> None:
        spec = self._spec
        news = (spec.stage, self._transport.name, f"{type(error).__name__}: {error}")
        self._tell_failed(spec, "stage_failed", news, partial(self.failed, error))

    def _send_hop(self, spec: StageSpec, load: Load, wait_s: float) -> Future[Any]:
        device, hop = self._to_next(spec, load)
        if wait_s > _first_s(HOP_S, load.rows.nbytes):
            self._ask_next(spec, device, HOP_S)
        send = partial(self._transport.post, device, "hop", hop, timeout_s=wait_s)
        return self.hop_times.hop(device, load.rows.nbytes, send)

    def _send_bulk_hop(self, spec: StageSpec, load: Load, wait_s: float) -> Future[Any]:
        device, hop = self._to_next(spec, load)
        answer = self._transport.call(device, "bulk_hop", hop, timeout_s=wait_s)
        self.hop_times.bulk_hop(device, load.rows.nbytes, answer)
        self._look_after(spec, device, answer)
        return answer

    def _look_after(self, spec: StageSpec, device: str, answer: Future[Any]) -> None:
        """See that the next device is there, as long as it does not answer."""

        def look() -> None:
            if not answer.done() and self._spec is spec and not self._is_over():
                self._ask_next(spec, device, BUSY_S)
                self._look_after(spec, device, answer)

        timer = self._transport.after(LOOK_EVERY_S, look)
        answer.add_done_callback(timer.cancel)

    def _ask_next(self, spec: StageSpec, device: str, patience_s: float) -> None:
        """Something was not answered yet: if the next device does not answer at all, the way to it may be cut."""
        if not self._is_asking:
            self._is_asking = True
            asked = self._transport.post(device, "ping", timeout_s=patience_s)
            asked.add_done_callback(partial(self._has_answered, spec))

    def _has_answered(self, spec: StageSpec, asked: Future[Any]) -> None:
        self._is_asking = False
        error = asked.exception()
        if error is not None and self._spec is spec and not self._is_over():
            stage = _next_stage(spec)
            self._tell_failed(spec, "hop_late", (stage, spec.ring[stage].device, str(error)), _nothing)

    def _was_answered(
        self, spec: StageSpec, again: Callable[[], None], then: Callable[[], None], sent: Future[Any]
    ) -> None:
        """A hop that was refused for an old plan version, which this stage has left meanwhile, goes the new way."""
        if isinstance(sent.exception(), PlanNotInForce) and self._spec is not spec:
            again()
        else:
            self._check(spec, sent)
            then()

    def _check(self, spec: StageSpec, sent: Future[Any]) -> None:
        """A hop of a ring that is over has not failed: who lacks it is sent it again in the new one. Where it is over
        for the next stage alone, this one has no place in the new one.
        """
        error = sent.exception()
        is_over = isinstance(error, PlanNotInForce) or self._spec is not spec or self._is_over()
        if error is not None and not is_over:
            stage = _next_stage(spec)
            endpoint = "hop_failed" if isinstance(error, (CallTimeout, DeviceLost)) else "stage_failed"
            self._tell_failed(spec, endpoint, (stage, spec.ring[stage].device, str(error)), _nothing)

    def _tell_failed(
        self, spec: StageSpec, endpoint: str, news: tuple[int, str, str], if_ring_is_over: Callable[[], None]
    ) -> None:
        send = partial(self._send_failed, spec, endpoint, news)
        on_answer = partial(self._failure_was_told, spec, if_ring_is_over)
        Delivery(send, on_answer, first_s=HOP_S, is_over=self._is_over).begin()

    def _failure_was_told(self, spec: StageSpec, if_ring_is_over: Callable[[], None], told: Future[Any]) -> None:
        """Who is gone, or holds the ring no more, needs no news: its device drops the stage (`orphans`)."""
        if isinstance(told.exception(), PlanNotInForce) and self._spec is not spec:
            if_ring_is_over()

    def _send_failed(self, spec: StageSpec, endpoint: str, news: tuple[int, str, str], wait_s: float) -> Future[Any]:
        return self._transport.post(spec.source, endpoint, spec.ring_id, *news, timeout_s=wait_s)

    def _to_next(self, spec: StageSpec, load: Load) -> tuple[str, Hop]:
        """With the time of this try: the receiver reckons by it how long the hop was on its way."""
        stage = _next_stage(spec)
        hop = Hop(spec.ring_id, stage, load.parts, load.rows, self._transport.name, clock_ns(), load.unit)
        return spec.ring[stage].device, hop


def _first_s(at_least_s: float, num_bytes: int) -> float:
    """How long to wait for the first answer.

    Args:
        num_bytes: of the hop, and of what is on its way before it.
    """
    return at_least_s + num_bytes / SLOWEST_BYTES_PER_S


def _next_stage(spec: StageSpec) -> int:
    """After the last one comes the first."""
    return (spec.stage + 1) % len(spec.ring)


def _nothing() -> None:
    """Nobody waits: for a hop of decoding, or for news of a hop that a later ring makes good."""
