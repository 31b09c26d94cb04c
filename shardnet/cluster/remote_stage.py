"""A stage as the coordinator holds it: loaded, asked for its report, and let go."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from shardnet.errors import ClusterError
from shardnet.plan import StagePlan
from shardnet.timeline.clocks import ClockOffset, clock_ns, offset_from_pings
from shardnet.timeline.spans import SpanTuple
from shardnet.timeline.stage_report import StageReport
from shardnet.timeline.timeline import shares_from_totals
from shardnet.transport.base import RemoteObject, Transport
from shardnet.transport.delivery import answer_of
from shardnet.transport.messages import (
    Owner,
    RingId,
    SessionStanding,
    StageAccount,
    StageKey,
    StageSizes,
    StageSpec,
    Stretch,
    Wanted,
)

ASK_S = 30.0
LOAD_S = 7 * 24 * 3600.0
"""Weights may come over a slow link first; a device that is lost meanwhile ends it at once."""
FIND_S = 1.0
REWIRE_S = 2.0
REWIRE_TRIES = 4
"""After 30 s a stage that does not answer is given up."""
NUM_PINGS = 9
MOST_SPANS = 200_000
LAST_SPANS_S = 2.0
"""How long a stage that is let go of may take to hand over its spans."""


class RemoteStage:
    """One stage of a loaded model."""

    def __init__(
        self,
        transport: Transport,
        spec: StageSpec,
        plan: StagePlan,
        left: tuple[StageKey, ...] = (),
        *,
        is_level: bool = True,
    ) -> None:
        """
        Args:
            left: the places of a stage that is there already, as an earlier coordinator knew them; see
                `Worker.find_stage`.
        """
        self.plan = plan
        """What it has."""
        self.is_level = is_level
        """It stands where the stages beside it stand, as far as is known: see `policy.shape`."""
        self.places: tuple[StageKey, ...] = left or ((spec.ring_id, spec.stage),)
        """Those in rings that it may answer to now."""
        self.sizes: StageSizes | None = None
        """Known when it is loaded."""
        self.spans: deque[SpanTuple] = deque(maxlen=MOST_SPANS)
        """Those that were fetched, the latest ones, on the device's clock."""
        self._dropped = {"here": 0, "there": 0}
        """So many of its oldest spans are lost, here and on its device."""
        self._transport = transport
        self._spec = spec
        self._host: RemoteObject
        if left:
            number = transport.number_of(transport.name)
            self._host = transport.remote(plan.device, "find_stage", transport.name, number, left, timeout_s=FIND_S)
        else:
            self._host = transport.remote(plan.device, "open_stage", spec)
        self._loading: Future[StageSizes] | None = None

    def load(self) -> Future[StageSizes]:
        """Start loading, once; the future gives the sizes."""
        if self._loading is None:
            self._loading = self._host.call("load", timeout_s=LOAD_S)
        return self._loading

    def owner_of(self, stage: StagePlan) -> Owner | None:
        """Itself as the owner of those of its units that `stage` has, too; None where it has none of them."""
        first, last = max(self.plan.first_unit, stage.first_unit), min(self.plan.last_unit, stage.last_unit)
        place = self._spec.ring_id, self._spec.stage
        return Owner(self.plan.device, place, first, last) if first <= last else None

    @property
    def index(self) -> int:
        """Its place in its ring, from 0; of one that is in none any more, the last that it had."""
        return self._spec.stage

    @property
    def sent_as(self) -> str:
        """In what its hidden states go to the next stage, where that is not the model's own dtype; else ''."""
        is_last = self.index + 1 >= len(self._spec.ring)
        sent_as = self._spec.ring[self.index].sent_as
        return "" if is_last or sent_as == self._spec.dtype else sent_as

    @property
    def is_loaded(self) -> bool:
        """Whether it has its weights."""
        return self._loading is not None and self._loading.done() and self._loading.exception() is None

    @property
    def has_failed(self) -> bool:
        """Whether it could not be loaded."""
        return self._loading is not None and self._loading.done() and self._loading.exception() is not None

    def look(self) -> None:
        """Learn what it has, of one that was there already.

        Raises:
            ClusterError: it does not answer.
        """
        self.sizes = sizes = self._host.call("load", timeout_s=FIND_S).result()
        self.plan = StagePlan(self.plan.device, sizes.first_unit, sizes.last_unit)

    def report(self) -> StageReport:
        assert self.sizes is not None, "not loaded"
        account = self.account().result()
        totals = account.totals
        senders = {source for source, _, _ in totals.messages_from}
        gone = senders.difference(self._transport.members())
        offsets = clock_offsets(self._transport, [self.plan.device, *sorted(senders - gone)])
        wire_s = totals.corrected_wire_s(offsets, gone)
        shares = shares_from_totals(totals, wire_s, totals.compute_s + totals.idle_s)
        return StageReport(
            device=self.plan.device,
            first_unit=self.plan.first_unit,
            last_unit=self.plan.last_unit,
            weight_bytes=self.sizes.weight_bytes,
            bytes_read=self.sizes.bytes_read,
            kv_reserved_bytes=account.kv_reserved_bytes,
            peak_rss_bytes=account.peak_rss_bytes,
            compute_s=totals.compute_s,
            wire_s=wire_s,
            idle_s=totals.idle_s,
            num_steps=totals.num_steps,
            num_tokens=totals.num_tokens,
            compute_share=shares.compute,
            wire_share=shares.wire,
            idle_share=shares.idle,
            sent_as=self.sent_as,
        )

    def account(self) -> Future[StageAccount]:
        """What it did since the last `reset`, as it counts it."""
        return self._host.call("report", timeout_s=ASK_S)

    @property
    def num_dropped(self) -> int:
        """So many of its oldest spans are lost."""
        return sum(self._dropped.values())

    def reset(self) -> None:
        """Begin the account anew, and forget the spans."""
        self._host.call("reset", timeout_s=ASK_S).result()
        self.spans.clear()
        self._dropped = {"here": 0, "there": 0}

    def fetch_spans(self, wait_s: float) -> None:
        """Have `spans` hold all that the stage has recorded.

        Raises:
            ClusterError: it does not answer.
        """
        self._keep_spans(self._host.call("drain_spans", timeout_s=wait_s))
        self._dropped["there"] = self.account().result().totals.num_dropped_spans

    def _keep_spans(self, drained: Future[Any]) -> None:
        spans = [tuple(span) for span in drained.result()]
        self._dropped["here"] += max(0, len(self.spans) + len(spans) - MOST_SPANS)
        self.spans.extend(spans)

    def adopt(self, spec: StageSpec) -> Future[Any]:
        """See `StageHost.adopt`; the others likewise. Told until it is answered."""
        self._spec = spec
        self.places = tuple(dict.fromkeys((*self.places, (spec.ring_id, spec.stage))))
        return self._tell("adopt", spec)

    def switch(self, ring_id: RingId) -> Future[Any]:
        return self._tell("switch", ring_id)

    def retire(self, ring_id: RingId) -> Future[Any]:
        retired = self._tell("retire", ring_id)
        retired.add_done_callback(partial(self._forget_places, ring_id))
        return retired

    def _forget_places(self, ring_id: RingId, retired: Future[Any]) -> None:
        if retired.exception() is None:
            self.places = tuple(place for place in self.places if place[0].plan_version >= ring_id.plan_version)

    def shape(self, ring_id: RingId, stretches: tuple[Stretch, ...]) -> Future[StageSizes]:
        """See `StageHost.shape`; told until it is answered."""
        return self._tell("shape", ring_id, stretches)

    def standings(self) -> Future[tuple[SessionStanding, ...]]:
        """How far each session stands there; asked until it is answered."""
        return self._tell("standings")

    def resend(self, ring_id: RingId, wanted: tuple[Wanted, ...]) -> Future[Any]:
        """See `StageHost.resend`; told until it is answered."""
        return self._tell("resend", ring_id, wanted)

    def keep_only(self, stage: StagePlan) -> None:
        """Give up all units but these, and copies of sessions, as a stage that is in no ring. Waits for it.

        Raises:
            ShardnetError: it cannot, or does not answer: it may have these alone, or all.
        """
        self.follow(()).result()
        ring_id, index = self._spec.ring_id, self._spec.stage
        self.sizes = sizes = self.shape(ring_id, (Stretch(index, stage.first_unit, stage.last_unit),)).result()
        self.plan = StagePlan(self.plan.device, sizes.first_unit, sizes.last_unit)
        if self.plan != stage:  # it was trimmed before: each ring's shape is taken once
            raise ClusterError(f"{stage.device} keeps units {self.plan.units} ready, and not units {stage.units}.")

    def follow(self, owners: tuple[Owner, ...]) -> Future[Any]:
        """See `StageHost.follow`; told until the first copies are there."""
        return self._ask("follow", (self._spec.ring_id, owners), most_tries=None)

    def pull(self, owners: tuple[Owner, ...]) -> Future[Any]:
        """See `StageHost.pull`; the same."""
        return self._ask("pull", (self._spec.ring_id, owners), most_tries=None)

    def _tell(self, method: str, *what: Any) -> Future[Any]:
        return self._ask(method, what, REWIRE_TRIES)

    def _ask(self, method: str, what: tuple[Any, ...], most_tries: int | None) -> Future[Any]:
        def send(wait_s: float) -> Future[Any]:
            return self._host.call(method, *what, timeout_s=wait_s)

        return answer_of(send, first_s=REWIRE_S, most_tries=most_tries)

    def unload(self) -> Future[Any]:
        """Start to end the stage and to free its weights; `release` it when that is done or nobody waits for it."""
        return self._host.call("close", timeout_s=ASK_S)

    def let_go(self) -> None:
        """The same, without waiting: it is released when it has ended, or does not answer. Its spans are kept."""
        if not self._spec.record_spans:
            self._end()
        else:
            self._host.call("drain_spans", timeout_s=LAST_SPANS_S).add_done_callback(self._end_with_spans)

    def _end_with_spans(self, drained: Future[Any]) -> None:
        if drained.exception() is None:
            self._keep_spans(drained)
        self._end()

    def _end(self) -> None:
        self.unload().add_done_callback(lambda _: self.release())

    def release(self) -> None:
        """Drop the remote object."""
        self._host.release()


def clock_offsets(transport: Transport, devices: Sequence[str]) -> dict[str, ClockOffset]:
    """How far each device's clock is ahead of this process's."""
    offsets = {}
    for device in dict.fromkeys(devices):
        if device == transport.name:
            continue
        samples = []
        for _ in range(NUM_PINGS):
            sent_ns = clock_ns()
            remote_ns = transport.post(device, "ping").result()
            samples.append((sent_ns, remote_ns, clock_ns()))
        offsets[device] = offset_from_pings(samples)
    return offsets
