"""Looks how fast the stages of a model are, and has its ring changed where another plan is worth it.

Decides nothing itself: see `policy.observing` and `policy.rebalance`. What the other plan needs is loaded while the
ring goes on (`cluster.standby`), and then the ring goes over to it between two steps (`cluster.handover`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from shardnet.cluster.blueprint import Blueprint
from shardnet.cluster.ring import Ring
from shardnet.cluster.rings import Rings
from shardnet.errors import ShardnetError
from shardnet.plan import Plan, StagePlan, merged_stages
from shardnet.planner.least_moves import ways_of
from shardnet.policy.observing import LEAST_STEPS, Pace, Work
from shardnet.policy.rebalance import Change, Move, Observed, Past, Policy, Prospect, decide, moves, prospect
from shardnet.policy.succession import Away, Means
from shardnet.process.threads import on_thread
from shardnet.timeline.events import units_of
from shardnet.timeline.recorder import Totals

LOOK_EVERY_S = 1.0
ANSWER_S = 2.0
POLICY = Policy()
_log = logging.getLogger(__name__)


class Situation(NamedTuple):
    """What a placement goes by, beside how fast devices are."""

    plan: Plan
    blueprint: Blueprint
    away: Away
    tokens: int

    def may_be(self, stages: Sequence[StagePlan]) -> bool:
        """Whether devices have room for a change to these, and no way is cut that they would go."""
        cut = self.away.cut | self.away.late
        return cut.isdisjoint(ways_of(stages)) and self.blueprint.can_change(self.plan, stages, self.tokens)


class Balancing:
    """Of one deployment. Runs on a thread of its own until it is closed.

    Args:
        num_under_way: how many conversations there are: without one nothing is looked at.
    """

    def __init__(self, rings: Rings, num_under_way: Callable[[], int], note: Callable[..., object]) -> None:
        self._rings = rings
        self._num_under_way = num_under_way
        self._note = note
        self._pace = Pace()
        self._ring: Ring | None = None
        """The one that was looked at last."""
        self._totals: dict[int, Totals] = {}
        """What each of its stages had done by the last look that counts, by its id."""
        self._found: tuple[Situation, Prospect] | None = None
        """The best plan, when it was looked for last."""
        self._past = Past()
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
                _log.error("looking how fast devices are failed: %s: %s", type(error).__name__, error)

    def _look(self) -> None:
        if self._num_under_way() == 0 or self._rings.is_changing:
            return
        plan, blueprint = self._rings.plan, self._rings.blueprint
        assert blueprint is not None, "the model stands"
        works = self._works(self._rings.current)
        profiles = {device.name: blueprint.with_times(device) for device in blueprint.devices}
        self._pace = self._pace.seen(works, profiles)
        away, means = self._rings.prospects()
        situation = Situation(plan, blueprint, away, means.tokens)
        found = self._prospect(situation, self._pace.slowdown(profiles), means)
        decision = decide(plan, found, time.monotonic(), self._past, POLICY)
        self._past = replace(self._past, better_since_s=decision.better_since_s)
        if decision.plan is not None and means.has_room(decision.plan.stages, means.reserved_tokens):
            self._go_over(plan, decision.plan, decision.why)

    def _prospect(self, situation: Situation, slowdown: Mapping[str, float], means: Means) -> Prospect:
        """The best plan; the one that was found before, where all is as it was then."""
        if self._found is not None and self._found[0] == situation and self._found[1].holds(slowdown):
            return self._found[1]
        observed = Observed(
            now_s=time.monotonic(),
            problem=means.problem(situation.away.lost | situation.away.silent, situation.tokens),
            device_slowdown=slowdown,
            in_flight=situation.blueprint.options.in_flight,
        )
        found = prospect(situation.plan, observed, situation.blueprint.place, situation.may_be)
        self._found = situation, found
        return found

    def _go_over(self, plan: Plan, better: Plan, why: str) -> None:
        """Where that cannot be done, it counts as done and undone: it is tried again later, and ever more seldom."""
        began_s = time.monotonic()
        has_moved = False
        try:
            has_moved = self._rings.go_over(lambda now, *_: better if now is plan else None)
        finally:
            moved = moves(plan, better)
            changed = Change(time.monotonic(), moved if has_moved else moves(better, plan))
            self._past = self._past.after(changed)
        if has_moved:
            seconds = time.monotonic() - began_s
            self._note("rebalanced", f"{_told(moved)}: {why}, after {seconds:.2f} s", "", seconds)

    def _works(self, ring: Ring) -> list[Work]:
        """What each stage has done since the last look of which something can be told."""
        if ring is not self._ring:  # a stage of which others became part has done what they did, too
            self._ring, self._totals = ring, {}
        asked: list[Future[Any]] = [stage.account() for stage in ring.stages]
        wait(asked, timeout=ANSWER_S)
        works = []
        for stage, answer in zip(ring.stages, asked, strict=True):
            if not answer.done() or answer.exception() is not None:
                continue
            now = answer.result().totals
            before = self._totals.setdefault(id(stage), now)
            num_steps = now.num_steps - before.num_steps
            if num_steps < 0:  # it counts anew
                self._totals[id(stage)] = now
            if num_steps >= LEAST_STEPS:
                self._totals[id(stage)] = now
                num_tokens = now.num_tokens - before.num_tokens
                works.append(Work(stage.plan, now.compute_s - before.compute_s, num_steps, num_tokens))
        return works


def _told(moved: Sequence[Move]) -> str:
    """In words: "units 10-12 from phone-1 to phone-2"."""
    parts = []
    for (source, target), together in groupby(moved, lambda move: (move.source, move.target)):
        stages = merged_stages([StagePlan(target, move.unit, move.unit) for move in together])
        parts.append(f"{units_of(stages)} from {source} to {target}")
    return "; ".join(parts)
