"""What is seen of a paper cluster while it runs: which ways there are, how fast devices and links seem to be."""

from __future__ import annotations

import math
from collections.abc import Set

from shardnet.plan import Plan
from shardnet.planner.problem import Problem
from shardnet.policy.rebalance import Observed
from shardnet.policy.succession import Cut
from shardnet.simulator.engine import Engine
from shardnet.simulator.load import Recovery
from shardnet.simulator.nearby import left_of
from shardnet.simulator.way import Way

STEP = 1.05
"""Slowdowns are seen in steps of 5%, so that noise alone asks for no new plan."""


class Senses:
    """Of one run.

    Args:
        gone: the devices that are not there now.
    """

    def __init__(
        self, problem: Problem, engine: Engine, way: Way, recovery: Recovery, in_flight: int, gone: Set[str]
    ) -> None:
        self._problem, self._engine, self._way, self._recovery = problem, engine, way, recovery
        self._in_flight, self._gone = in_flight, gone

    def network(self, *plans: Plan) -> Observed:
        """What payloads can go over; the devices of these plans are taken to be there."""
        meant = {device for plan in plans for device in plan.devices}
        in_use = {*meant, *self._way.plan.devices}
        left = left_of(self._problem, self._gone - meant, frozenset(), in_use, self._recovery.is_source_apart)
        return self.observed(left)

    def observed(self, problem: Problem) -> Observed:
        """How fast devices and links seem to be."""
        servers = self._engine.servers.items()
        return Observed(
            now_s=self._engine.now_s,
            problem=problem,
            device_slowdown={key[0]: _stepped(each.seen_slowdown) for key, each in servers if len(key) == 1},
            link_slowdown=self.slow_links(),
            in_flight=self._in_flight,
        )

    def slow_links(self) -> dict[Cut, float]:
        """By what factor links seem to be slower, of those that do."""
        servers = self._engine.servers.items()
        seen = {key: each.seen_slowdown for key, each in servers if len(key) == 2 and each.seen_slowdown != 1.0}
        return {(key[0], key[1]): _stepped(slowdown) for key, slowdown in seen.items()}


def _stepped(slowdown: float) -> float:
    return STEP ** round(math.log(slowdown, STEP)) if slowdown > 0 else 1.0
