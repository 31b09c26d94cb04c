"""A stage's place on a device: its shard is loaded here, set to work, asked what it did, rewired, and ended."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from shardnet.codecs.rows import Codec, codec_named
from shardnet.device.following import Following
from shardnet.device.memory import AddedWeights
from shardnet.device.outlet import RingOutlet
from shardnet.device.premises import Premises
from shardnet.device.shaping import Shaping
from shardnet.device.stage_table import StageTable
from shardnet.device.warming import warm_up
from shardnet.errors import ClusterError, PlanNotInForce
from shardnet.loader import load_shard
from shardnet.models import Shard
from shardnet.models.plain_config import from_text
from shardnet.process.threads import on_thread
from shardnet.profiling.memory import peak_rss_bytes
from shardnet.stage.budget import MemoryBudget
from shardnet.stage.cache import KVCache
from shardnet.stage.sent_log import kept_by
from shardnet.stage.stage import Stage
from shardnet.timeline.recorder import Recorder
from shardnet.timeline.spans import SpanTuple
from shardnet.transport.messages import (
    Owner,
    RingId,
    RingStop,
    SessionStanding,
    StageAccount,
    StageKey,
    StageSizes,
    StageSpec,
    Stretch,
    Wanted,
)


class StageHost:
    """The coordinator holds it by a remote object and calls its public methods.

    Args:
        spec: what to load, and the stage's place in its ring.
        table: where messages find the stage by that place.
    """

    def __init__(self, premises: Premises, spec: StageSpec, table: StageTable[StageHost]) -> None:
        self.source = spec.source
        self.stage: Stage | None = None
        self._premises = premises
        self._spec = spec
        self._next_spec: StageSpec | None = None
        """The place that was adopted and not yet switched to."""
        self._table = table
        self._shaping = Shaping()
        self._whole: StageHost | None = None
        """The stage of which this one has become a part."""
        self._outlet = RingOutlet(premises.transport, spec._replace(tensors={}, config=""), self._is_over)
        self.hop_times = self._outlet.hop_times
        self.following = Following(premises.transport, self._running)
        self.unread_bytes = 0
        """See `DeviceMemory`."""
        self._weight_bytes = 0
        """What is reserved for weights that are still to be read."""
        self._loaded: Future[StageSizes] | None = None
        """Once it is told to load."""
        self._is_closed = False
        self._lock = threading.Lock()
        table.add(_key(spec), self)

    @property
    def key(self) -> StageKey:
        """The place that it sends its results from."""
        return _key(self._spec)

    @property
    def _newest(self) -> StageSpec:
        """The place that it has, or has adopted."""
        return self._spec if self._next_spec is None else self._next_spec

    @property
    def stop(self) -> RingStop:
        """What it holds, as its neighbours see it."""
        return self._spec.ring[self._spec.stage]

    @property
    def sent_as(self) -> Codec:
        """What it sends hidden states in.

        Raises:
            BadRequest: the codec has a name that is none.
        """
        return codec_named(self.stop.sent_as)

    @property
    def keep_s(self) -> float:
        """See `StageSpec`."""
        return self._spec.keep_s

    @property
    def is_changing(self) -> bool:
        """Whether it is about to have other units, or other stages are about to be part of it."""
        return self._shaping.is_under_way

    def load(self) -> Future[StageSizes]:
        """Load the shard and start the stage; the future gives its sizes.

        Told again, it is the same load: whoever has told it first may be gone. What is loaded tells what it is now.
        """
        with self._lock:
            stage = self.stage
            if stage is not None:
                self._loaded = Future()
                self._loaded.set_result(self._sizes(stage))
            if self._loaded is None:
                self._loaded = on_thread("shardnet-load", self._load)
            return self._loaded

    @property
    def untouched_bytes(self) -> int:
        """What is reserved for this stage and was not written to yet."""
        stage = self.stage
        return self.unread_bytes + (0 if stage is None else stage.kv.untouched_bytes)

    @property
    def untouched_bytes_beside(self) -> int:
        stage = self.stage
        return 0 if stage is None else stage.kv.untouched_bytes_beside

    def report(self) -> StageAccount:
        """Totals since the last `reset`, and memory."""
        stage = self._running()
        num_sessions, kv_reserved_bytes = stage.usage()
        totals, hops = stage.recorder.totals(), self.hop_times.taken()
        return StageAccount(totals, peak_rss_bytes(), kv_reserved_bytes, num_sessions, *hops)

    def reset(self) -> None:
        """Forget totals and spans."""
        self._running().recorder.reset()

    def drain_spans(self) -> list[SpanTuple]:
        """The spans since the last time."""
        return list(self._running().recorder.drain())

    def adopt(self, spec: StageSpec) -> None:
        """Answer to a place in another ring, too: the first of three steps, each of which all stages of a ring take.

        Shard, caches and sessions stay as they are; only the way of what goes in and out changes. Each step may be told
        twice, and late: plan versions grow, and an older ring's has no effect any more.

        Raises:
            ClusterError: the stage is not running, or something answers to that place already.
        """
        self._running()
        with self._lock:
            self._raise_if_closed()
            newest = self._newest
            is_other_place = spec.ring_id == newest.ring_id and spec.stage != newest.stage
            if spec.ring_id.plan_version > newest.ring_id.plan_version or is_other_place:
                self._table.add(_key(spec), self)
                self._next_spec = spec
                self.following.end()

    def switch(self, ring_id: RingId) -> Future[None]:
        """Between two steps: from now on results go along the ring that was adopted. The second step."""
        stage = self._running()
        return stage.between_steps(partial(self._switch, stage, ring_id))

    def retire(self, ring_id: RingId) -> None:
        """Answer to no older ring any more: nothing is sent along one. The third step."""
        for key, host in self._table.items():
            if host is self and key[0].plan_version <= ring_id.plan_version and key != self.key:
                self._table.remove(key)

    def shape(self, ring_id: RingId, stretches: tuple[Stretch, ...]) -> Future[StageSizes]:
        """Have the units that the stage is to have in a ring; the future gives the sizes that it has then.

        To be told behind the third step, and before the stages are asked how far they stand: what waits here for other
        units is dropped. Each ring's shape is taken once; told again, or late, it has no effect.

        Args:
            stretches: units to keep of this stage, and of others of this device, which follow each other; those behind
                the first become part of it. Where one has fewer tokens of a session than another, the whole has as
                few; a session that one has not, or has no room for, is open there no more.

        The future fails with PlanNotInForce where that ring is not the present one; with BadRequest where a stage has
        not all of its units, or they do not follow each other; with ClusterError where one is not there.
        """
        return self._shaping.begin(self, ring_id, stretches)

    def standings(self) -> Future[tuple[SessionStanding, ...]]:
        """What the stage knows of each open session, between two of its steps."""
        stage = self._running()
        return stage.between_steps(stage.standings)

    def resend(self, ring_id: RingId, wanted: tuple[Wanted, ...]) -> Future[None]:
        """Send again, along the present ring, what was sent of some sessions from a position on; answered at once.

        To be asked of every open session whenever the next stage has become another one, also where that lacks
        nothing: from then on the stage reckons with what the next one has. Asking twice is harmless. Sessions that are
        not open are passed over. Where the head is, what is sent again are the ids that were sampled.

        The future fails with PlanNotInForce where results do not go along that ring; with BadRequest where what was
        sent is not kept from there on (`SessionStanding.kept_from`), and nothing is changed then.
        """
        stage = self._running()
        return stage.between_steps(partial(self._resend, stage, ring_id, wanted))

    def follow(self, ring_id: RingId, owners: Sequence[Owner]) -> Future[None]:
        """Copy all that the owners of this stage's units have of their sessions, and stay near; see `Following.follow`.

        For a stage in no ring: it ends when that adopts another place, and what was copied stays.

        Args:
            ring_id: under which it is kept ready: an order that comes late, when it is part of a ring, does no harm.

        Raises:
            PlanNotInForce: it has another place by now.
        """
        with self._lock:
            return self._following_for(ring_id).follow(tuple(owners))

    def pull(self, ring_id: RingId, owners: Sequence[Owner]) -> Future[None]:
        """Copy what is lacking for a last time; see `Following.pull`. Raises as `follow`."""
        with self._lock:
            return self._following_for(ring_id).pull(tuple(owners))

    def close(self) -> Future[None]:
        """End the stage and free its weights; a load that is under way ends at its next unit."""
        return on_thread("shardnet-close", self._end)  # the compute thread may be in a long step

    def _end(self) -> None:
        """The same, and wait for it. Private, so that nobody has it done on a thread of the network."""
        with self._lock:
            self._is_closed = True
            stage, self.stage = self.stage, None
            self.following.end()
            # The handle of a coordinator that was killed keeps this object for ever: let it hold next to nothing.
            self._spec = self._spec._replace(tensors={}, config="")
        self._table.forget(self)  # when nothing can be adopted any more
        if stage is not None:
            stage.close()
            del stage
            self._premises.memory.return_freed()

    def _leave(self, ring_id: RingId) -> None:
        """Answer to that ring no more; where that was the last one, end."""
        with self._lock:
            places = [key for key, host in self._table.items() if host is self]
            for key in places:
                if key[0] == ring_id:
                    self._table.remove(key)
            if all(key[0] == ring_id for key in places):
                self._is_closed = True
        if self._is_closed:
            self._end()

    def _become_part_of(self, other: StageHost) -> None:
        """The stage has ended, and what it had is the other one's. Whoever closes this one then, closes nothing."""
        with self._lock:
            self.stage, self._whole = None, other
            self._spec = self._spec._replace(tensors={}, config="")
        self._table.forget(self)
        self._outlet.follow(other._outlet)

    def _sizes(self, stage: Stage) -> StageSizes:
        shard = stage.shard
        return StageSizes(
            shard.weight_bytes, shard.bytes_read, stage.kv.bytes_per_token, shard.first_unit, shard.last_unit
        )

    def _switch(self, stage: Stage, ring_id: RingId) -> None:
        """Runs on the compute thread."""
        with self._lock:
            spec = self._next_spec
            if spec is None or spec.ring_id != ring_id:
                return
            self._spec, self._next_spec = spec, None
        self._outlet.rewire(spec)
        self._kv_budget(spec)
        stage.begin_ring(spec.ring_id.plan_version, _num_groups(spec))
        if self.stop.last_unit == stage.shard.last_unit:  # or it is about to have another one
            stage.send_as(self.sent_as)

    def _resend(self, stage: Stage, ring_id: RingId, wanted: tuple[Wanted, ...]) -> None:
        """Runs on the compute thread."""
        present = self._spec.ring_id
        if ring_id != present:
            raise PlanNotInForce(
                f"{self._premises.transport.name} sends along plan {present.plan_version}, not plan "
                f"{ring_id.plan_version}: that one is not in force here."
            )
        stage.send_again(wanted)

    def _is_over(self) -> bool:
        return self._is_closed if self._whole is None else self._whole._is_over()

    def _running(self) -> Stage:
        stage = self.stage
        if stage is None:
            raise ClusterError("The stage is not running: its model was closed, or is still being loaded.")
        return stage

    def _load(self) -> StageSizes:
        try:
            shard = self._load_shard()
            warm_up(shard, self._premises.num_threads)
            return self._begin(shard)
        except BaseException:
            self._release_weights()
            raise

    def _begin(self, shard: Shard) -> StageSizes:
        """Set the shard to work."""
        self.unread_bytes = 0
        spec, here = self._spec, self._premises
        recorder = Recorder(here.transport.name, spec.stage)
        recorder.keep_spans = spec.record_spans
        with self._lock:
            self._raise_if_closed()
            sent_as = self.sent_as
            kept = kept_by(shard, sent_as)
            budget, beside = self._kv_budget(spec), here.memory.beside
            kv = KVCache(shard.kv_layout, shard.kv_row_dtype, budget, kept, shard.device, beside)
            self._outlet.send_for(shard.next_unit)
            self.stage = stage = Stage(
                shard,
                kv,
                recorder,
                self._outlet,
                chunk_tokens=spec.prefill_chunk_tokens,
                num_threads=here.num_threads,
                pace=here.pace,
                sent_as=sent_as,
                matchers=partial(here.vocabularies.matcher, spec.checkpoint, lambda: self._spec.source),
            )
            stage.begin_ring(spec.ring_id.plan_version, _num_groups(spec))
        return self._sizes(stage)

    def _kv_budget(self, spec: StageSpec) -> MemoryBudget:
        """One for all stages of one deployment: old and new ones, while one ring takes over from another."""
        name = (spec.ring_id.epoch, spec.deployment)
        return self._premises.memory.budget.part(name, spec.kv_budget_bytes)

    def _load_shard(self) -> Shard:
        here = self._premises
        with self._lock:
            self._raise_if_closed()
            spec, stop = self._spec, self.stop
        with here.depot.copy_for(spec, self._raise_if_closed) as copy, copy.at_rest():
            return load_shard(
                from_text(spec.config),
                copy.places_of(spec.tensors),
                *(stop.first_unit, stop.last_unit, spec.dtype),
                weights=AddedWeights(here.weights, here.memory.budget, self._has_read),
                reserve=self._reserve_weights,
                progress=self._tell_progress,
                device=here.device,
                **spec.holding._asdict(),
            )

    def _reserve_weights(self, num_bytes: int) -> None:
        self._premises.memory.reserve_weights(num_bytes, self)
        self._weight_bytes = num_bytes

    def _has_read(self, num_bytes: int) -> None:
        self._weight_bytes -= num_bytes

    def _release_weights(self) -> None:
        """Those that are not to be read any more."""
        self._premises.memory.budget.release(self._weight_bytes)
        self._weight_bytes = self.unread_bytes = 0

    def _following_for(self, ring_id: RingId) -> Following:
        if ring_id != self._newest.ring_id:
            raise PlanNotInForce("The stage has a place in another ring: it follows nobody. Prepare a new one.")
        return self.following

    def _raise_if_closed(self) -> None:
        if self._is_closed:
            raise ClusterError("The stage was closed.")

    def _tell_progress(self, done_bytes: int, total_bytes: int) -> None:
        self._raise_if_closed()
        self.unread_bytes = min(self.unread_bytes, total_bytes - done_bytes)
        spec = self._spec
        self._premises.transport.post(spec.source, "load_progress", spec.ring_id, spec.stage, done_bytes, total_bytes)


def _num_groups(spec: StageSpec) -> int:
    return spec.num_groups if spec.stage == 0 else 1


def _key(spec: StageSpec) -> StageKey:
    return spec.ring_id, spec.stage
