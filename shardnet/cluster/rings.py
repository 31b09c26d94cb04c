"""The rings of one loaded model, one after the other, and what takes it from one to the next.

After a loss a thread of its own goes through rounds (`cluster.handover`), until one is whole and nothing more was lost
meanwhile. Who takes over what is decided by `policy.recovery`. A round that is broken off leaves its ring behind: the
next one goes on from there, with what that had opened.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Any

from shardnet.cluster import handover
from shardnet.cluster.blueprint import Blueprint
from shardnet.cluster.remote_stage import RemoteStage
from shardnet.cluster.ring import Ring, WaitFor
from shardnet.errors import CallTimeout, ClusterError, DeviceLost, ShardnetError
from shardnet.plan import Plan
from shardnet.planner.least_moves import repaired
from shardnet.policy import recovery as policy
from shardnet.policy.mending import pieces
from shardnet.policy.rebalance import Observed
from shardnet.process.threads import on_thread
from shardnet.session.sessions import VERDICT_S, Sessions
from shardnet.timeline.events import units_of
from shardnet.transport.base import Transport
from shardnet.transport.messages import RingId

Note = Callable[[str, str, str, "float | None"], object]
"""Told what happened: kind, words, device, seconds."""


class _BrokenOff(Exception):
    """Something more was lost: the round is of no use any more."""


class Rings:
    """Those of one deployment, from the one whose stages are loaded first.

    Args:
        draw_id: gives a ring an id that none had before.
        ended: fails when the model is closed or ends.
        end: called with what cannot be mended.
    """

    def __init__(
        self,
        transport: Transport,
        first: Ring,
        sessions: Sessions,
        draw_id: Callable[[], RingId],
        ended: Future[None],
        end: Callable[[ShardnetError], object],
        note: Note,
    ) -> None:
        self.all: tuple[Ring, ...] = (first,)
        """The present one last; before it, for a moment, those from which it takes over."""
        self._transport = transport
        self._sessions = sessions
        self._draw_id = draw_id
        self._ended = ended
        self._end = end
        self._note = note
        self._blueprint: Blueprint | None = None
        self._course: policy.Course | None = None
        self._lost: dict[str, str] = {}
        """Every device that is lost, or suspected and replaced, with the reason."""
        self._certainly: set[str] = set()
        """Those of them that will not come back."""
        self._news: list[str] = []
        """Those of them that no round has begun to deal with."""
        self._broken_off: Future[None] = Future()
        """Of the round under way: fails when something more is lost."""
        self._settled = threading.Condition(threading.RLock())
        self._is_changing = False
        self._has_begun = False
        """Sessions are suspended: only a whole round lets them go on."""
        self._is_over = False
        """Closed, or beyond mending: no change begins any more."""
        self._known_s = 0.0
        """When the loss was heard of that the present change began with."""

    @property
    def current(self) -> Ring:
        """The present one; waits until no change is under way."""
        with self._settled:
            self._settled.wait_for(lambda: not self._is_changing)
            return self.all[-1]

    @property
    def plan(self) -> Plan:
        """Who holds what."""
        assert self._course is not None, "the model is not loaded yet"
        return self._course.plan

    def stand(self, blueprint: Blueprint, plan: Plan) -> None:
        """The first ring is loaded: from now on losses can be mended."""
        with self._settled:
            self._blueprint = blueprint
            self._course = policy.Course(plan, frozenset(device.name for device in blueprint.devices))

    def lose(self, device: str, why: str) -> bool:
        """A device is lost. Does not wait. False where no ring is loaded yet, so that others could take over."""
        with self._settled:
            for ring in self.all:
                ring.release(device)
            self._certainly.add(device)
        return self._replace(device, why)

    def suspect(self, device: str, why: str) -> None:
        """A device is silent: others take over, where they can. It may come back. Does not wait."""
        self._replace(device, why)

    def trust(self, device: str) -> None:
        """A suspected device is there again, without the stages that others have taken over meanwhile."""
        with self._settled:
            if device not in self._lost or device in self._certainly or self._course is None:
                return
            del self._lost[device]
            rules = policy.Rules("", None)
            self._course, _ = policy.handle(time.monotonic(), self._course, policy.Joined(device), rules)
        self._note("back", f"{device} is heard again", device, None)

    def _replace(self, device: str, why: str) -> bool:
        with self._settled:
            if self._course is None or self._is_over:
                return False
            self._lost[device] = why
            self._news.append(device)
            broken_off, self._broken_off = self._broken_off, Future()
            is_first, self._is_changing = not self._is_changing, True
            if is_first:
                self._known_s = time.monotonic()
        broken_off.set_exception(_BrokenOff())
        if is_first:
            on_thread("shardnet-recovery", self._change)
        return True

    def renew(self) -> None:
        """Let all go on under a new plan version, though nothing is lost. What it cannot do ends the model."""
        with self._settled:
            self._settled.wait_for(lambda: not self._is_changing)
            self._is_changing = True
        self._change()

    def close(self) -> list[RemoteStage]:
        """No change begins any more. Returns the stages that are there, each once."""
        with self._settled:
            stages = {id(stage): stage for ring in self.all for stage in ring.stages}
            self._is_over = True
            return list(stages.values())

    def _change(self) -> None:
        try:
            while not self._is_whole():
                pass
        except BaseException as error:  # Ctrl-C, too: suspended sessions would wait for ever
            with self._settled:
                self._is_over = True
            self._end(error if isinstance(error, ShardnetError) else ClusterError(_UNFINISHED))
            with self._settled:
                self._is_changing = False
                self._settled.notify_all()
            if not isinstance(error, ShardnetError):
                raise

    def _is_whole(self) -> bool:
        """Go through one round; False where something more was lost in it."""
        with self._settled:
            news, self._news = self._news, []
            broken_off = self._broken_off
        try:
            self._go_round(news, broken_off)
        except _BrokenOff:
            return False
        with self._settled:
            if self._news:
                return False
            self._is_changing = False
            self._settled.notify_all()
            return True

    def _go_round(self, news: Sequence[str], broken_off: Future[None]) -> None:
        old = self.all[-1]
        plan = self._decide(old, news)
        if plan is None:
            return
        self._has_begun = True
        self._sessions.suspend()
        wait_for = partial(self._result_of, broken_off)
        new, kept = self._next_ring(old, plan)
        self._enter(*self.all, new)
        self._open(new, kept, wait_for)
        handover.load(new, wait_for)
        handover.fence(new, wait_for)
        dropped = [stage for ring in self.all for stage in ring.stages if stage not in new.stages]
        self._enter(new)
        handover.go_on(new, self._sessions, wait_for)
        for stage in dropped:
            if stage.plan.device not in self._certainly:
                stage.let_go()
        self._settle(plan)

    def _decide(self, old: Ring, news: Sequence[str]) -> Plan | None:
        """Who is to hold what; None where the ring may stay as it is.

        Raises:
            DeviceLost: the others cannot take over.
        """
        course, blueprint = self._course, self._blueprint
        assert course is not None and blueprint is not None, "no change begins before the model stands"
        self._raise_if_ended()
        after, why_not = self._without(course, blueprint, news)
        if why_not:
            certain = [device for device in news if device in self._certainly]
            if certain:
                raise self._too_much(old, certain or news, why_not)
            for device in news:  # nobody can take over: it may come back, and until then its sessions wait
                self._lost.pop(device, None)
            return course.plan if self._has_begun else None
        self._course = after
        if after.coming is not course.coming and after.coming is not None:
            self._tell_of(after, after.coming)
        if after.coming is None and news and not self._has_begun:
            return None
        return after.coming or after.plan

    def _without(self, course: policy.Course, blueprint: Blueprint, news: Sequence[str]) -> tuple[policy.Course, str]:
        """Where the plan stands without devices that are lost, and why it cannot go on, if it cannot."""
        now_s, absent = time.monotonic(), set(self._lost)
        rules = policy.Rules(blueprint.source, partial(repaired, course.plan))
        try:
            observed = Observed(now_s, blueprint.problem(absent))
        except ShardnetError as error:
            return course, str(error)
        for device in news:
            course, _ = policy.handle(now_s, course, policy.Left(device, course.plan.devices), rules)
        for device in news:
            course, actions = policy.handle(now_s, course, policy.Noticed(device, observed, absent), rules)
            for action in actions:
                if isinstance(action, policy.Fail):
                    return course, action.why
        return course, ""

    def _next_ring(self, old: Ring, plan: Plan) -> tuple[Ring, list[RemoteStage | None]]:
        """The ring that `plan` makes of what is there, and those of its stages that are there already."""
        assert self._blueprint is not None
        gone = {index for index, stage in enumerate(old.plan) if stage.device in self._lost}
        gone.update(range(len(old.stages), len(old.plan)))  # a round was broken off before they were opened
        parts = pieces(old.plan, gone, plan)
        stages = [part.plan for part in parts]
        specs = self._blueprint.specs(self._draw_id(), stages, plan)
        kept = [None if part.kept is None else old.stages[part.kept] for part in parts]
        return Ring(self._transport, stages, specs), kept

    def _enter(self, *rings: Ring) -> None:
        """
        Raises:
            ShardnetError: the model was closed meanwhile.
        """
        with self._settled:
            self._raise_if_ended()
            self.all = rings

    def _open(self, ring: Ring, kept: Sequence[RemoteStage | None], wait_for: WaitFor) -> None:
        try:
            ring.open(wait_for, kept)
        finally:
            if self._ended.done():  # the model was closed before these were there
                for stage in ring.stages:
                    stage.unload()
        self._raise_if_ended()

    def _result_of(self, broken_off: Future[None], answer: Future[Any]) -> Any:
        """Wait for a device's answer, but no longer than until something more is lost or the model is closed."""
        wait((answer, broken_off, self._ended), return_when=FIRST_COMPLETED)
        self._raise_if_ended()
        if not broken_off.done() and isinstance(answer.exception(), (DeviceLost, CallTimeout)):
            self._wait_for_verdict(broken_off)
        if broken_off.done():
            raise _BrokenOff
        return answer.result()

    def _wait_for_verdict(self, broken_off: Future[None]) -> None:
        """A connection broke, or a device is silent: who watches the devices is about to say whether one is lost.

        Raises:
            _BrokenOff: one is.
        """
        wait((broken_off, self._ended), timeout=VERDICT_S, return_when=FIRST_COMPLETED)
        if broken_off.done():
            raise _BrokenOff

    def _raise_if_ended(self) -> None:
        if self._ended.done():
            self._ended.result()

    def _settle(self, plan: Plan) -> None:
        """The sessions go on in the new ring."""
        before, self._has_begun = self._course, False
        assert before is not None
        self._course, _ = policy.handle(time.monotonic(), before, policy.Loaded(plan), policy.Rules("", None))
        if before.broken:
            seconds = time.monotonic() - self._known_s
            version = self.all[-1].ring_id.plan_version
            self._note("recovered", f"plan {version} is in force, after {seconds:.2f} s", "", seconds)

    def _tell_of(self, course: policy.Course, plan: Plan) -> None:
        """Say what becomes of the units that are lost."""
        for device in sorted(course.noticed):
            stages = [stage for stage in course.plan.stages if stage.device == device]
            units = [unit for stage in stages for unit in range(stage.first_unit, stage.last_unit + 1)]
            takers = " and ".join(dict.fromkeys(plan.device_of(unit) for unit in units))
            state = "lost" if device in self._certainly else "suspected"
            text = f"{device} is {state} ({self._lost.get(device, '')}): its {units_of(stages)} go to {takers}"
            self._note(state, text, device, None)

    def _too_much(self, ring: Ring, news: Sequence[str], why: str) -> DeviceLost:
        """The error for a loss that cannot be mended."""
        device = next((each for each in news if ring.held_by(each)), news[0] if news else "")
        what = f"{device} is lost ({self._lost.get(device, '')}){ring.what_goes_with(device)}"
        return DeviceLost(f"{what}, and the others cannot take over: {why}", device)


_UNFINISHED = "the change to another ring was broken off. Load the model again."
