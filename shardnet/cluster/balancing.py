"""Looks how fast the stages of a model and the ways between them are, and has its ring changed where another plan is
worth it.

Decides nothing itself: see `policy.observing`, `policy.link_pace` and `policy.rebalance`. What the other plan needs is
loaded while the ring goes on (`cluster.standby`), and then the ring goes over to it between two steps
(`cluster.handover`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import NamedTuple

from shardnet.cluster.blueprint import Blueprint
from shardnet.cluster.rings import Rings
from shardnet.cluster.stage_looks import StageLooks
from shardnet.errors import DoesNotFit, ShardnetError
from shardnet.plan import DeviceProfile, Plan, StagePlan
from shardnet.planner.least_moves import ways_of
from shardnet.policy.link_pace import LinkPace
from shardnet.policy.observing import Pace
from shardnet.policy.rebalance import Change, Move, Observed, Past, Policy, Prospect, decide, moves, prospect
from shardnet.policy.succession import Away, Cut, Means
from shardnet.process.threads import on_thread
from shardnet.timeline.events import units_of

LOOK_EVERY_S = 1.0
STEP_TRIES, AGAIN_S = 3, 0.2
POLICY = Policy()
_log = logging.getLogger(__name__)


class Situation(NamedTuple):
    """What a placement goes by, beside how fast devices and links are."""

    plan: Plan
    blueprint: Blueprint
    away: Away
    tokens: int

    def may_be(self, stages: Sequence[StagePlan]) -> bool:
        """Whether no way is cut that these would go."""
        return (self.away.cut | self.away.late).isdisjoint(ways_of(stages))

    def has_room(self, before: Sequence[StagePlan], after: Sequence[StagePlan]) -> bool:
        """Whether devices have room for a change from some stages to others, while it lasts."""
        return self.blueprint.can_change(before, after, self.tokens)


class Balancing:
    """Of one deployment. Runs on a thread of its own until it is closed.

    Args:
        num_under_way: how many conversations there are: without one nothing is looked at.
    """

    def __init__(self, rings: Rings, num_under_way: Callable[[], int], note: Callable[..., object]) -> None:
        self._rings = rings
        self._num_under_way = num_under_way
        self._note = note
        self._looks = StageLooks()
        self._pace = Pace()
        self._link_pace = LinkPace()
        self._known: Mapping[str, DeviceProfile] = {}
        """The devices that these are of."""
        self._found: tuple[Situation, Prospect] | None = None
        """The best plan, when it was looked for last."""
        self._past = Past()
        self._looked_s = 0.0
        """When the last look was over."""
        self._closed = threading.Event()
        on_thread("shardnet-balance", self._run)

    def close(self) -> None:
        """Look no more. Does not wait."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(LOOK_EVERY_S):
            try:
                self._look()
            except ShardnetError:  # a device is gone, or the ring is changing: the next look sees
                pass
            except Exception as error:  # whatever it is, the model goes on as it is
                _log.error("looking how fast devices and links are failed: %s: %s", type(error).__name__, error)

    def _look(self) -> None:
        if self._num_under_way() == 0 or self._rings.is_changing:
            return
        self._past = self._past.unseen_for(time.monotonic() - self._looked_s)
        plan, blueprint = self._rings.plan, self._rings.blueprint
        assert blueprint is not None, "the model stands"
        look = self._looks.look(self._rings.current)
        self._forget_others(blueprint.devices)
        profiles = {device.name: blueprint.with_times(device) for device in blueprint.devices}
        self._pace = self._pace.seen(look.works, profiles)
        self._link_pace = self._link_pace.seen(look.trips, blueprint.link_between, look.lap_s)
        away, means = self._rings.prospects()
        situation = Situation(plan, blueprint, away, means.tokens)
        slow_links = self._link_pace.slowdown(profiles, blueprint.link_between)
        found = self._prospect(situation, self._pace.slowdown(profiles), slow_links, means)
        decision = decide(plan, found, time.monotonic(), self._past, POLICY)
        self._past, self._looked_s = replace(self._past, better_since_s=decision.better_since_s), time.monotonic()
        if decision.plan is not None and means.has_room(decision.plan.stages, means.reserved_tokens):
            self._go_over(plan, [*decision.via, decision.plan], decision.why)

    def _forget_others(self, devices: Sequence[DeviceProfile]) -> None:
        """Another device may have come under a name."""
        before, self._known = self._known, {device.name: device for device in devices}
        new = [device.name for device in devices if before.get(device.name) is not device]
        self._pace, self._link_pace = self._pace.without(new), self._link_pace.without(new)

    def _prospect(
        self, situation: Situation, slow: Mapping[str, float], slow_links: Mapping[Cut, float], means: Means
    ) -> Prospect:
        """The best plan; the one that was found before, where all is as it was then."""
        if self._found is not None and self._found[0] == situation and self._found[1].holds(slow, slow_links):
            return self._found[1]
        observed = Observed(
            now_s=time.monotonic(),
            problem=means.problem(situation.away.lost | situation.away.silent, situation.tokens),
            device_slowdown=slow,
            link_slowdown=slow_links,
            in_flight=situation.blueprint.options.in_flight,
        )
        place = situation.blueprint.place
        found = prospect(situation.plan, observed, place, situation.may_be, situation.has_room)
        self._found = situation, found
        return found

    def _go_over(self, plan: Plan, steps: Sequence[Plan], why: str) -> None:
        """One step after the other, as far as it goes. Where the first cannot be done, it counts as done and undone: it
        is tried again later, and ever more seldom."""
        began_s = time.monotonic()
        reached = plan
        try:
            for step in steps:
                if not self._is_reached(step, reached):
                    break
                reached = step
        finally:
            moved = moves(plan, reached)
            changed = Change(time.monotonic(), moved or moves(steps[0], plan))
            self._past = self._past.after(changed)
            if moved:
                seconds = time.monotonic() - began_s
                self._note("rebalanced", f"{_told(moved)}: {why}, after {seconds:.2f} s", "", seconds)

    def _is_reached(self, step: Plan, before: Plan) -> bool:
        """Go over to a step, where the one before it stays in force: after a change that came first, as when stages
        become one, and when devices have let go of what they gave away.

        Raises:
            ShardnetError: a device cannot.
        """
        for tries_left in reversed(range(STEP_TRIES)):
            self._rings.current  # noqa: B018 - waits for a change that came first
            if self._rings.plan is not before:
                return False
            try:
                if self._rings.go_over(partial(_next, before, step)):
                    return True
            except DoesNotFit:
                if not tries_left:
                    raise
            if self._closed.wait(AGAIN_S):
                return False
        return False


def _next(reached: Plan, step: Plan, now: Plan, away: Away, means: Means) -> Plan | None:
    """The next step, where the one before it is in force still, and there is room for the open sessions."""
    return step if now is reached and means.has_room(step.stages, means.reserved_tokens) else None


def _told(moved: Sequence[Move]) -> str:
    """In words: "units 10-12 from phone-1 to phone-2"."""
    parts = []
    runs = groupby(enumerate(moved), lambda each: (each[1].source, each[1].target, each[1].unit - each[0]))
    for (source, target, _), together in runs:
        units = [move.unit for _, move in together]
        parts.append(f"{units_of([StagePlan(target, units[0], units[-1])])} from {source} to {target}")
    return "; ".join(parts)
