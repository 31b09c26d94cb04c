"""Looks how fast the stages of a model are, and has its ring changed where another plan is worth it.

Decides nothing itself: see `policy.observing` and `policy.rebalance`. What the other plan needs is loaded while the
ring goes on (`cluster.standby`), and then the ring goes over to it between two steps (`cluster.handover`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from itertools import groupby
from typing import Any

from shardnet.cluster.remote_stage import RemoteStage
from shardnet.cluster.rings import Rings
from shardnet.errors import ShardnetError
from shardnet.plan import Plan, StagePlan, merged_stages
from shardnet.policy.observing import Pace, Work
from shardnet.policy.rebalance import Move, Observed, Policy, moves, revise
from shardnet.process.threads import on_thread
from shardnet.timeline.events import units_of
from shardnet.timeline.recorder import Totals

LOOK_EVERY_S = 1.0
ANSWER_S = 2.0
POLICY = Policy()
_log = logging.getLogger(__name__)


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
        self._totals: dict[int, Totals] = {}
        """What each stage had done by the last look, by its id."""
        self._changed_s = time.monotonic()
        self._better_since_s: float | None = None
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
        works = self._works(self._rings.current.stages)
        profiles = {device.name: blueprint.with_times(device) for device in blueprint.devices}
        self._pace = self._pace.seen(works, profiles)
        problem, means = self._rings.prospects()
        observed = Observed(
            now_s=time.monotonic(),
            problem=problem,
            device_slowdown=self._pace.slowdown(profiles),
            in_flight=blueprint.options.in_flight,
            changed_s=self._changed_s,
            better_since_s=self._better_since_s,
        )
        decision = revise(plan, observed, POLICY, blueprint.place)
        self._better_since_s = decision.better_since_s
        if decision.plan is not None and means.has_room(decision.plan.stages, means.reserved_tokens):
            self._go_over(plan, decision.plan, decision.why)

    def _go_over(self, plan: Plan, better: Plan, why: str) -> None:
        began_s = time.monotonic()
        if self._rings.go_over(lambda now, *_: better if now is plan else None):
            seconds = time.monotonic() - began_s
            self._note("rebalanced", f"{_told(moves(plan, better))}: {why}, after {seconds:.2f} s", "", seconds)
        self._changed_s = time.monotonic()
        self._better_since_s = None

    def _works(self, stages: Sequence[RemoteStage]) -> list[Work]:
        """What each stage has done since the last look."""
        asked: list[Future[Any]] = [stage.account() for stage in stages]
        wait(asked, timeout=ANSWER_S)
        works = []
        totals: dict[int, Totals] = {}
        for stage, answer in zip(stages, asked, strict=True):
            if not answer.done() or answer.exception() is not None:
                continue
            now = totals[id(stage)] = answer.result().totals
            before = self._totals.get(id(stage), now)
            num_steps = now.num_steps - before.num_steps
            if num_steps > 0:
                num_tokens = now.num_tokens - before.num_tokens
                works.append(Work(stage.plan, now.compute_s - before.compute_s, num_steps, num_tokens))
        self._totals = totals
        return works


def _told(moved: Sequence[Move]) -> str:
    """In words: "units 10-12 from phone-1 to phone-2"."""
    parts = []
    for (source, target), together in groupby(moved, lambda move: (move.source, move.target)):
        stages = merged_stages([StagePlan(target, move.unit, move.unit) for move in together])
        parts.append(f"{units_of(stages)} from {source} to {target}")
    return "; ".join(parts)
