"""A model on devices: its sessions, and the rings that they go through, one after the other.

Between an old ring and the one that takes over lies a moment in which both are there. What arrives is known by its
ring, and what is sent along one that is gone is not applied.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, as_completed, wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from shardnet.cluster.balancing import Balancing
from shardnet.cluster.blueprint import Blueprint
from shardnet.cluster.draining import drain, held_by
from shardnet.cluster.fetches import Fetches
from shardnet.cluster.left_model import KEEP_S, Keep, left_of
from shardnet.cluster.remote_stage import RemoteStage
from shardnet.cluster.ring import Ring, reports_of
from shardnet.cluster.rings import Rings
from shardnet.cluster.run_log import RunLog
from shardnet.errors import BadRequest, ClusterError, DeviceLost, ShardnetError
from shardnet.plan import Plan
from shardnet.process.threads import Errands
from shardnet.progress import Progress
from shardnet.session.sessions import VERDICT_S, Sessions
from shardnet.shipping.dispatch import Dispatch
from shardnet.timeline.clocks import clock_ns
from shardnet.timeline.events import Event
from shardnet.timeline.history import History
from shardnet.timeline.stage_report import StageReport
from shardnet.timeline.timeline import Timeline
from shardnet.transport.messages import RingId, StageKey, StageSizes, Tokens

UNLOAD_S = 5.0
MOST_EVENTS = 1000
"""That are remembered: a model may stay for months."""

Answer = TypeVar("Answer")


class Deployment:
    """One loaded (or loading) model, as the cluster's endpoints and its watch see it."""

    def __init__(
        self,
        dispatch: Dispatch,
        epoch: bytes,
        progress: Progress,
        on_closed: Callable[[Deployment], object],
        keep: Keep | None = None,
    ) -> None:
        """Args: `keep`, told of what another process needs to go on with the model; None where it ends with us."""
        self.transport = dispatch.transport
        self.dispatch = dispatch
        self.progress = progress
        self.fetches = Fetches(progress, self.note)
        self.events: tuple[Event, ...] = ()
        """What happened since it was loaded, the latest `MOST_EVENTS`."""
        self._keep = keep
        self._on_event: Callable[[Event], object] | None = None
        self._errands: Errands | None = None
        self._balancing: Balancing | None = None
        self._run_log: RunLog | None = None
        """Where spans are recorded."""
        self._epoch = epoch
        self._sessions: Sessions | None = None
        self._rings: Rings | None = None
        self._history = History(clock_ns(), 0, 0)
        """As it begins when the model is loaded."""
        self._ended: Future[None] = Future()
        """Fails when a device is lost before all is loaded, or the model is closed."""
        self._is_closed = False
        self._lock = threading.Lock()
        self._on_closed = on_closed

    @property
    def sessions(self) -> Sessions:
        assert self._sessions is not None, "the model is not placed yet"
        return self._sessions

    @property
    def keep_s(self) -> float:
        """How long devices keep its stages while this process is not there."""
        return 0.0 if self._keep is None else KEEP_S

    @property
    def ring(self) -> Ring:
        """The present one. Waits while another one takes over.

        Raises:
            ShardnetError: what has ended the model.
        """
        if self._rings is None or self._is_closed:
            self.sessions.raise_if_ended()
            raise BadRequest(_CLOSED)
        return self._rings.current

    @property
    def rings(self) -> Rings | None:
        """The present one, and those before it; None before it is placed and after the end. Waits for nothing."""
        return None if self._is_closed else self._rings

    @property
    def plan(self) -> Plan:
        """Who holds what, under the version of the present ring."""
        assert self._rings is not None and self._rings.blueprint is not None, "the model is not placed yet"
        return self._rings.blueprint.as_shown(self._rings.plan, self._rings.all[-1].ring_id.plan_version)

    def next_ring_id(self) -> RingId:
        """For a ring under a plan version that was never used."""
        return RingId(self._epoch, self.transport.draw("plan_version"))

    def holds(self, ring_id: RingId) -> bool:
        """Whether there is a use for the stages of that ring."""
        if self._rings is None or self._is_closed:
            return False
        is_ready = self._rings.standby is not None and self._rings.standby.holds(ring_id)
        return is_ready or any(ring.ring_id == ring_id for ring in self._rings.all)

    def keep_ready(self, stages: Sequence[RemoteStage]) -> None:
        """Keep stages ready that an earlier coordinator has loaded for that."""
        if self._rings is not None and self._rings.standby is not None:
            self._rings.standby.take_up(stages)

    def _write_down(self, blueprint: Blueprint, ring: Ring, plan: Plan, ready: Sequence[RemoteStage]) -> None:
        if self._keep is not None:
            self._keep(left_of(blueprint, ring, plan, ready))

    def make_room(self) -> bool:
        """A session does not fit: give up what is kept ready. False where that is nothing."""
        standby = None if self._rings is None else self._rings.standby
        return standby is not None and standby.give_up()

    # ---- from nothing to a first ring ----

    def place(self, ring: Ring, numbers: Iterator[int]) -> None:
        """From now on it is known which device holds which stage; make room for each, unless the ring is opened.

        Args:
            numbers: for the sessions, none of them twice in a cluster's life.

        Raises:
            ShardnetError: what has ended the load meanwhile.
        """
        with self._lock:
            self._raise_if_given_up()
            self._sessions = sessions = Sessions(self.transport, numbers, ring.route, self.make_room)
            self._rings = Rings(
                self.transport, ring, sessions, self.next_ring_id, self._ended, self.end, self.note, self._write_down
            )
        if not ring.stages:
            ring.open(lambda answer, _: self.result_of(answer))

    def result_of(self, answer: Future[Answer]) -> Answer:
        """Wait for a device's answer, but no longer than until a device is lost or the load is given up."""
        either: tuple[Future[Any], ...] = (answer, self._ended)
        wait(either, return_when=FIRST_COMPLETED)
        if self._ended.done():
            self._ended.result()
        return answer.result()

    def wait_until_loaded(self, loads: Sequence[Future[StageSizes]]) -> None:
        """All devices load at the same time; the first error ends it."""
        for loaded in as_completed(loads):
            self.result_of(loaded)
        self.ring.loaded([loaded.result() for loaded in loads])

    def _raise_if_given_up(self) -> None:
        if self._ended.done():
            self._ended.result()

    def verdict(self, error: BaseException) -> BaseException:
        """What an error during the load comes from. If a connection broke, whoever watches the devices knows more."""
        if isinstance(error, DeviceLost):
            wait((self._ended,), timeout=VERDICT_S)
        cause = self._ended.exception() if self._ended.done() else None
        return cause if isinstance(error, ShardnetError) and isinstance(cause, DeviceLost) else error

    # ---- from one ring to the next ----

    def stand(self, blueprint: Blueprint, plan: Plan) -> None:
        """All stages are loaded: from now on, what is lost goes to others.

        Raises:
            ShardnetError: what has ended the load meanwhile.
        """
        with self._lock:
            self._raise_if_given_up()
            assert self._rings is not None, "the model is not placed yet"
            self.sessions.shares_prefixes = blueprint.options.share_prefixes
            self._on_event = blueprint.options.on_event
            if self._on_event is not None:  # on a thread of its own: it may ask the model, which waits for a change
                self._errands = Errands("shardnet-events")
            self._history = History(clock_ns(), self._rings.all[-1].ring_id.plan_version, len(plan.devices))
            self._rings.stand(blueprint, plan)  # from now on something may happen
            if blueprint.options.record_spans:
                self._run_log = RunLog(self.transport, partial(_members, self._rings))
            if blueprint.options.rebalance and blueprint.options.split is None:
                self._balancing = Balancing(self._rings, lambda: self.sessions.num_open, self.note)
        self.fetches.stand()

    def renew(self) -> None:
        """Let all stages go on under a new plan version, sessions and all.

        Raises:
            ShardnetError: a stage does not answer, or the model was closed; sessions cannot go on then.
        """
        if self._rings is not None:
            self._rings.renew()
        self.sessions.raise_if_ended()

    def note(self, event: str, text: str, device: str = "", seconds: float | None = None) -> None:
        """Remember what happened, and tell who wants to know."""
        at_s = round((clock_ns() - self._history.loaded_ns) / 1e9, 3)
        plan = self.plan
        happened = Event(at_s, event, text, device, seconds, plan.version, len(plan.devices))
        self.events = (*self.events, happened)[-MOST_EVENTS:]
        on_event = self._on_event
        if on_event is not None and self._errands is not None:
            self._errands.do(partial(on_event, happened))

    # ---- what it looked like ----

    def reports(self) -> list[StageReport]:
        return reports_of(lambda: self.ring)

    def reset(self) -> None:
        stages = self.ring.stages
        if self._run_log is not None:
            self._run_log.reset(stages)
        else:
            for stage in stages:
                stage.reset()

    def timeline(self) -> Timeline:
        stages = self.ring.stages
        if self._run_log is None:
            return Timeline(history=replace(self._history, events=self.events))
        history = replace(self._history, events=self.events, heard_ns=self._run_log.heard_ns)
        return self._run_log.timeline(stages, history)

    # ---- what devices and the watch tell ----

    def on_tokens(self, tokens: Tokens) -> None:
        self.sessions.tell(tokens)
        if self._run_log is not None:
            self._run_log.hear(tokens)

    def on_session_failed(self, session: int, text: str) -> None:
        self.sessions.fail_session(session, BadRequest(text))

    def on_stage_failed(self, stage: int, device: str, text: str) -> None:
        """The device lives, so the fault is the stage's; of one that no ring needs any more nothing follows."""
        if self._rings is not None and not self._is_closed and self._rings.all[-1].held_by(device):
            num_stages = len(self._rings.all[-1].plan)
            self.end(ClusterError(f"stage {stage + 1} of {num_stages} on {device} failed: {text}"))

    def on_hop_failed(self, ring_id: RingId, stage: int, device: str, text: str) -> None:
        """The device lives, so the way to it is at fault. In a ring that is over, nothing has failed: another one took
        over, and who lacks something is sent it there.
        """
        self._on_cut(ring_id, stage, device, text, is_certain=True)

    def on_hop_late(self, ring_id: RingId, stage: int, device: str, text: str) -> None:
        """The device lives, so the way to it may be cut: another way is taken, where there is one."""
        self._on_cut(ring_id, stage, device, text, is_certain=False)

    def _on_cut(self, ring_id: RingId, stage: int, device: str, text: str, is_certain: bool) -> None:
        if self._rings is None or self._is_closed or self._rings.all[-1].ring_id != ring_id:
            return
        source = self._rings.all[-1].plan[stage - 1].device
        self._rings.cut((source, device), f"what {source} sends does not reach {device}: {text}", is_certain)

    def on_progress(self, stage: int, done_bytes: int, total_bytes: int) -> None:
        if self._rings is None or self._is_closed:
            return
        plan = self._rings.all[-1].plan
        if stage < len(plan):
            self.progress(f"loading {plan[stage].device}", done_bytes, total_bytes)

    def on_profile_progress(self, device: str, done: float, total: float) -> None:
        self.progress(f"profiling {device}", done, total)

    def check_stages(self, device: str, present: Collection[StageKey], asked_s: float) -> None:
        """A device has said which stages it has. One that has dropped a stage of the present ring has broken it.

        It does so when it cannot reach this process any more, though it can still be reached: what it was to send, a
        token or a hidden state, went nowhere, and its session would wait for ever.
        """
        if self._rings is None or self._is_closed or self._rings.is_changing:  # it may be another one of that name
            return
        rings = self._rings.all
        for index in rings[0].missing(device, present, asked_s):
            self.end(
                ClusterError(
                    f"{device} has dropped stage {index + 1} of {len(rings[0].plan)}, as its connection to this "
                    "process broke. Load the model again."
                )
            )

    def lose(self, device: str, why: str) -> None:
        """A device was lost. What it held goes to others, once all is loaded; before, that ends the load."""
        with self._lock:
            rings = self._rings
            if self._is_closed or (rings is not None and rings.lose(device, why)):
                return
            what_goes = "" if rings is None else rings.all[-1].what_goes_with(device)
            if rings is not None and not what_goes:
                return
        then = f"{what_goes}. {_LOAD_AGAIN}" if what_goes else _BEFORE_PLACING
        lost = DeviceLost(f"{device} is lost ({why}){then}", device)
        self._give_up(lost)
        self.end(lost)

    def suspect(self, device: str, why: str) -> None:
        """A device is silent: what it holds goes to others where they have room, once all is loaded."""
        if self._rings is not None and not self._is_closed:
            self._rings.suspect(device, why)

    def trust(self, device: str) -> None:
        """A device that was suspected is heard again."""
        if self._rings is not None and not self._is_closed:
            self._rings.trust(device)

    def take_in(self, device: str, change: Callable[[Blueprint], Blueprint], is_there: Callable[[], bool]) -> None:
        """A device has joined: see `Rings.take_in`."""
        if self._rings is not None and not self._is_closed:
            self._rings.take_in(device, change, is_there)

    def reckons_with(self, device: str) -> bool:
        """Whether the device may be given units; not one that came while the model was loaded, say."""
        blueprint = None if self._rings is None else self._rings.blueprint
        if self._rings is None or blueprint is None or device in self._rings.absences.lost:
            return False
        return any(each.name == device for each in blueprint.devices)

    def held_by(self, device: str) -> str:
        """What a device holds, in words; empty where that is nothing."""
        return "" if self._rings is None or self._is_closed else held_by(self._rings, device)

    def drain(self, device: str, leaving: Collection[str] = ()) -> str:
        """A device is about to leave: others take over what it holds, where they can, while it goes on. See `drain`."""
        if self._rings is None or self._is_closed:
            return ""
        began_s = time.monotonic()
        moved = drain(self._rings, device, leaving)
        if moved:
            seconds = time.monotonic() - began_s
            self.note("drained", f"{moved}, after {seconds:.2f} s: {device} may leave", device, seconds)
        return moved

    def end(self, error: ShardnetError) -> None:
        """No session can go on: each that waits, and every later one, gets `error`."""
        if self._sessions is not None:
            self._sessions.end(error)

    def close(self) -> None:
        """Unload from every living device. Safe to call twice, and while it is still being loaded.

        A device that is busy or frozen is not waited for longer than `UNLOAD_S`; it does as it was told when it can.
        """
        closed = BadRequest(_CLOSED)
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            if self._balancing is not None:
                self._balancing.close()
            if self._run_log is not None:
                self._run_log.close()
            stages = [] if self._rings is None or was_closed else self._rings.close()
            self._give_up(closed)
        try:
            self.end(closed)
            wait([stage.unload() for stage in stages], timeout=UNLOAD_S)
        finally:
            if self._errands is not None:
                self._errands.end()
            for stage in stages:
                stage.release()
            self._on_closed(self)  # from now on, devices end by themselves what they were not told to end

    def _give_up(self, why: ShardnetError) -> None:
        """Nobody waits for a device any more."""
        with suppress(InvalidStateError):  # the first reason counts
            self._ended.set_exception(why)


def _members(rings: Rings) -> list[RemoteStage]:
    """The stages of all rings that are there."""
    return [stage for ring in rings.all for stage in ring.members]


_CLOSED = "the model was closed. Load it again."
_BEFORE_PLACING = " before the model was placed. Load it again on the devices left."
_LOAD_AGAIN = "Load the model again on the devices left."
