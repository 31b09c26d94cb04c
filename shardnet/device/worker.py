"""What one device does when it is asked: describe itself, load shards, run them as stages, leave.

Handlers return at once: a load runs on a thread of its own and answers through a future, hops go into an inbox. Shards
and their stages live in this object's tables; what the coordinator holds are remote objects (RRefs) to their hosts.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from shardnet.device.description import describe
from shardnet.device.following import make_room
from shardnet.device.memory import DeviceMemory
from shardnet.device.orphans import HeldFor, OrphanWatch
from shardnet.device.premises import Premises
from shardnet.device.quantising import Quantising
from shardnet.device.shared_weights import SharedWeights
from shardnet.device.stage_host import StageHost
from shardnet.device.stage_table import StageTable
from shardnet.device.vocabularies import Vocabularies
from shardnet.errors import BadRequest, ClusterError, KVMemorySpent, PlanNotInForce
from shardnet.models.plain_config import from_text
from shardnet.plan import StagePlan
from shardnet.process.cache_folder import cache_folder
from shardnet.process.compute import CPU
from shardnet.process.threads import on_thread
from shardnet.profiling.compute import compute_device, device_kind
from shardnet.profiling.link_probe import expose_probe
from shardnet.profiling.power import UNKNOWN_POWER, PowerState
from shardnet.profiling.reuse import measure_or_reuse
from shardnet.profiling.store import ProfileStore
from shardnet.shipping.depot import Depot, OnProgress
from shardnet.shipping.limits import NO_LIMITS, FetchLimits
from shardnet.stage.pace import Pace, own_pace
from shardnet.stage.stage import Stage
from shardnet.timeline.clocks import clock_ns
from shardnet.transport.base import Transport
from shardnet.transport.device_messages import DeviceDescription, MeasuredDevice
from shardnet.transport.messages import Copied, CopyWanted, Hop, RingId, StageKey, StageSpec
from shardnet.transport.offer_messages import Offer
from shardnet.transport.outcomes import pass_on_failure
from shardnet.transport.rows_messages import Rows, RowsWanted
from shardnet.transport.session_messages import SessionSpec


class Worker:
    """One device of a cluster. A context manager: its stages end with the block.

    Raises:
        UsageError: there is no such accelerator here.
    """

    def __init__(
        self,
        num_threads: int,
        cache_dir: Path | None = None,
        pace: Pace = own_pace,
        most_memory_bytes: int | None = None,
        fetch_limits: FetchLimits = NO_LIMITS,
        compute: str = CPU,
    ) -> None:
        self.num_threads = num_threads
        self.compute = compute
        self.device = compute_device(compute)
        self.cache_dir = cache_folder(cache_dir)
        """Where this device keeps its profiles and what it fetches of weights, and finds its copies of checkpoints."""
        self.premises: Premises
        self._pace = pace
        self._most_memory_bytes = most_memory_bytes
        self._fetch_limits = fetch_limits
        self.on_fetch: OnProgress = lambda fetched: None
        """Told how far it is with weights that it fetches. To be set before it is attached."""
        self.power: Callable[[], PowerState] = lambda: UNKNOWN_POWER
        """Battery and temperature as they were read last. To be set likewise."""
        self.on_pause: Callable[[bool], str] = self._cannot_pause
        """Told that it shall pause, or no more; says why it pauses all the same. To be set likewise."""
        self.left = threading.Event()
        """Set when the coordinator has told this device to leave."""
        self._stages: StageTable[StageHost]
        self._orphans: OrphanWatch | None = None

    def attach(self, transport: Transport) -> None:
        """Expose what a device offers. To be done before the others learn of it: they ask at once."""
        self._stages = StageTable(transport.name)
        memory = DeviceMemory(transport.name, self._stages.hosts, self._most_memory_bytes, self.compute)
        weights = SharedWeights()
        depot = Depot(transport, self.cache_dir, self._fetch_limits, weights.roots, self.on_fetch)
        self.premises = Premises(
            *(transport, self.num_threads, depot, memory, Vocabularies(transport)),
            *(depot.beside(self._pace), weights, self.device),
        )
        for endpoint, handler in (
            ("describe", self.describe),
            ("profile", self.profile),
            ("ping", clock_ns),
            ("stages", self._stages.keys),
            ("open_stage", self.open_stage),
            ("find_stage", self.find_stage),
            ("end_stages", self.end_stages),
            ("hop", self.hop),
            ("bulk_hop", self.bulk_hop),
            ("open_session", self.open_session),
            ("close_sessions", self.close_sessions),
            ("copy_sessions", self.copy_sessions),
            ("read_rows", self.read_rows),
            ("offer", self.offer),
            ("pause", lambda must_pause: self.on_pause(must_pause)),
            ("quantise_unit", Quantising(self.premises).unit),
            ("leave", self.left.set),
        ):
            transport.expose(endpoint, handler)
        expose_probe(transport)
        self._orphans = OrphanWatch(transport, self._rings, self._drop)

    @property
    def kind(self) -> str:
        """Devices of one kind on one host are equally fast."""
        return device_kind(self.num_threads, self.compute)

    @property
    def name(self) -> str:
        """In the cluster."""
        return self.premises.transport.name

    def holds(self) -> tuple[StagePlan, ...]:
        """What its running stages hold, in the order of the units."""
        stops = {host.stop for host in self._stages.hosts() if host.stage is not None}
        in_order = sorted(stops, key=lambda stop: stop.first_unit)
        return tuple(StagePlan(stop.device, stop.first_unit, stop.last_unit) for stop in in_order)

    def describe(self) -> DeviceDescription:
        """What this device is and has now."""
        memory = self.premises.memory
        promised, allowed = memory.promised_bytes(), memory.allowed_bytes()
        return describe(self.name, self.kind, self.num_threads, promised, allowed, self.compute, self.power())

    def profile(
        self, config: str, dtype: str, weights: str, kv_dtype: str, max_seconds: float, source: str
    ) -> Future[MeasuredDevice]:
        """Measure this device with a model's units, or take what was measured before; see `profiler`.

        Args:
            config: as in `StageSpec`.
            weights: of `Holding.scheme`'s words.
            kv_dtype: as in `Holding`.
            source: whoever asks.
        """

        def tell(_: str, done: float, total: float) -> None:
            self.premises.transport.post(source, "profile_progress", self.name, done, total)

        def measure() -> MeasuredDevice:
            profiled = measure_or_reuse(
                from_text(config),
                dtype,
                ProfileStore(self.cache_dir / "profiles"),
                device=self.kind,
                max_seconds=max_seconds,
                weights=weights,
                kv_dtype=kv_dtype,
                num_threads=self.num_threads,
                compute=self.compute,
                must_keep=False,
                pace=self._pace,
                progress=tell,
            )
            self.premises.memory.return_freed()
            return MeasuredDevice(json.dumps(profiled.measurement.as_dict()), profiled.not_kept)

        return on_thread("shardnet-profile", measure)

    def open_stage(self, spec: StageSpec) -> StageHost:
        """Make room for a stage; its weights come with `StageHost.load`.

        Raises:
            ClusterError: it was opened already: a ring's stages are opened once.
        """
        return StageHost(self.premises, spec, self._stages)

    def find_stage(self, source: str, number: int, places: Sequence[StageKey]) -> StageHost:
        """The stage that answers to one of these places: one that an earlier coordinator has left here.

        Args:
            source: whoever asks.
            number: of the process that asks, see `Transport.number_of`: what its stages tell it must find it.

        Raises:
            PlanNotInForce: there is none, or it has nothing loaded.
            ClusterError: this device has not heard of that process yet, or its stages are about to have other units.
                To be asked again.
        """
        if self.premises.transport.number_of(source) != number:
            raise ClusterError(f"{self.name} has not heard of this {source} yet. Ask again.")
        if any(host.is_changing for host in self._stages.hosts()):
            raise ClusterError(f"The stages of {self.name} are about to have other units. Ask again.")
        hosts = (self._stages.get(place) for place in places)
        host = next((host for host in hosts if host is not None and host.stage is not None), None)
        if host is None:
            raise PlanNotInForce(f"{self.name} has none of the stages that it is asked for any more.")
        return host

    def end_stages(self, source: str, plan_version: int) -> Future[None]:
        """End what is held for a coordinator under a plan version below that one: it was left by another process."""
        return on_thread("shardnet-end", partial(self._end_before, source, plan_version))

    def hop(self, hop: Hop) -> None:
        received_ns = clock_ns()
        self._stage(hop.ring_id, hop.stage).put(hop, received_ns)

    def bulk_hop(self, hop: Hop) -> Future[None]:
        received_ns = clock_ns()
        taken: Future[None] = Future()
        self._stage(hop.ring_id, hop.stage).put(hop, received_ns, lambda: taken.set_result(None))
        return taken

    def open_session(self, ring_id: RingId, stage: int, spec: SessionSpec) -> int | Future[int]:
        """What was only copied here makes room for it. Returns how many of its tokens are there.

        One that follows a grammar is opened when that has been read.
        """
        opened = self._stage(ring_id, stage)
        if spec.sampling.grammar and opened.shard.has_head:
            return on_thread("shardnet-open", partial(self._open_when_read, opened, spec))
        return self._open_at_once(opened, spec)

    def _open_when_read(self, opened: Stage, spec: SessionSpec) -> int:
        opened.matchers(spec.sampling.grammar).result()
        num_there = self._open_at_once(opened, spec)
        return num_there.result() if isinstance(num_there, Future) else num_there

    def _open_at_once(self, opened: Stage, spec: SessionSpec) -> int | Future[int]:
        opening = partial(self._open_session, opened, spec)
        if spec.shares is not None and opened.is_in_step(spec.shares.session):
            return opened.between_steps(opening)  # it has more tokens then
        return opening()

    def _open_session(self, opened: Stage, spec: SessionSpec) -> int:
        try:
            return opened.open_session(spec)
        except KVMemorySpent:
            followings = [host.following for host in self._stages.hosts()]
            if not make_room(followings, opened, spec.capacity_tokens):
                raise
            return opened.open_session(spec)

    def close_sessions(self, ring_id: RingId, stage: int, sessions: Sequence[int]) -> None:
        host = self._stages.get((ring_id, stage))
        running = None if host is None else host.stage
        if running is not None:
            running.close_sessions(sessions)

    def copy_sessions(self, key: StageKey, wanted: CopyWanted) -> Future[Copied]:
        """Between two steps, and if possible when there is nothing else to do; see `Copies.read`."""
        stage, host = self._stage(*key), self._stages.get(key)
        copied = stage.when_idle(partial(stage.copies.read, wanted), wanted.patience_s)
        if host is not None:
            host.hop_times.copy(wanted.first_unit, copied)
        return copied

    def read_rows(self, ring_id: RingId, stage: int, wanted: RowsWanted) -> Future[Rows]:
        """See `rows_messages`."""
        reading = self._stage(ring_id, stage)
        answer = reading.readers.ask(wanted)
        reading.between_steps(reading.readers.answer).add_done_callback(partial(pass_on_failure, answer))
        return answer

    def offer(self, offer: Offer) -> bool:
        """See `offer_messages`."""
        stages = [host.stage for host in self._stages.hosts()]
        return any(stage is not None and stage.offer(offer) for stage in stages)

    def close(self) -> None:
        """End all stages."""
        if self._orphans is not None:
            self._orphans.close()
            for host in self._stages.hosts():
                host._end()
            self.premises.depot.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cannot_pause(self, must_pause: bool) -> str:
        raise BadRequest(f"{self.name} cannot pause: it is a device of a cluster that ends with its program.")

    def _rings(self) -> set[HeldFor]:
        """The rings that have stages here."""
        return {HeldFor(host.source, ring_id, host.keep_s) for (ring_id, _), host in self._stages.items()}

    def _end_before(self, source: str, plan_version: int) -> None:
        rings = {held.ring_id for held in self._rings() if held.source == source}
        for ring_id in rings:
            if ring_id.plan_version < plan_version:
                self._drop(ring_id)

    def _drop(self, ring_id: RingId) -> None:
        """End the stages of a ring that is no more, but for those that answer to another ring by now."""
        for (ring, _), host in self._stages.items():
            if ring == ring_id:
                host._leave(ring_id)

    def _stage(self, ring_id: RingId, stage: int) -> Stage:
        host = self._stages.get((ring_id, stage))
        running = None if host is None else host.stage
        if running is None:
            raise PlanNotInForce(
                f"{self.name} has no stage {stage} of plan {ring_id.plan_version}: that plan is not in force here."
            )
        return running
