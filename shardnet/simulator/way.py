"""The way round the ring as it is now: which plan is in force, and over which links its payloads go."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shardnet.errors import ShardnetError
from shardnet.plan import Plan
from shardnet.planner.problem import Problem
from shardnet.policy.rebalance import Observed, observed_problem
from shardnet.policy.succession import Cut, ways_of
from shardnet.simulator.engine import Leg
from shardnet.simulator.ring import Roads, decode_legs
from shardnet.simulator.rounds import Switch

REROUTE = 1.3
"""By this factor a link's time must change before routes are chosen anew."""


class Way:
    """Changes with the plan, and where links become slow."""

    def __init__(self, problem: Problem, plan: Plan) -> None:
        self.problem = problem
        self.plans = [plan]
        """All that were in force, the present one last."""
        self.came = Switch(plan, None)
        """How the present one came into force."""
        self.roads = Roads(problem)
        self._routed_by: dict[tuple[str, str], float] = {}
        """The slowdowns of links by which the routes were chosen."""
        self._lap: list[Leg] | None = None

    @property
    def plan(self) -> Plan:
        return self.plans[-1]

    def plan_of(self, version: int) -> Plan:
        """The plan of a version; the first one where there is none."""
        return next((plan for plan in self.plans if plan.version == version), self.plans[0])

    def lap(self) -> list[Leg]:
        """One token's way."""
        if self._lap is None:
            self._lap = decode_legs(self.problem, self.plan.stages, self.roads)
        return self._lap

    def needed(self) -> set[str]:
        """Devices without which the ring stands still: its stages and its relays."""
        needed = set(self.plan.devices)
        for leg in self.lap():
            needed.update(leg.resource)
        return needed

    def switch(self, came: Switch, observed: Observed) -> None:
        """Another plan is in force; its routes are chosen by what was seen."""
        self.came = came
        if came.plan is not self.plan:
            self.plans.append(came.plan)
        self._choose_roads(observed)

    def blocked(self, is_open: Callable[[Leg], bool]) -> list[Cut]:
        """From which device to which the ring goes over something that is closed."""
        found = []
        for here, there in sorted(ways_of(self.plan.stages)):
            if not all(map(is_open, self.roads.legs(here, there, self.problem.return_bytes, ""))):
                found.append((here, there))
        return found

    def is_routed_by(self, seen: Mapping[tuple[str, str], float]) -> bool:
        """Whether links are about as slow as when the routes were chosen."""
        before = self._routed_by
        changes = (seen.get(key, 1.0) / before.get(key, 1.0) for key in {*seen, *before})
        return all(REROUTE > change > 1 / REROUTE for change in changes)

    def reroute(self, observed: Observed) -> bool:
        """Go round links that became slow, and devices that are gone, where there is a way: no layer moves for it.

        Returns whether the way changed.
        """
        before, roads = [leg.resource for leg in self.lap()], self.roads
        try:
            self._choose_roads(observed)
            self.lap()
        except ShardnetError:  # a device is gone, and nobody else passes on what it did
            self.roads, self._lap = roads, None
            return False
        self._routed_by = dict(observed.link_slowdown)
        return [leg.resource for leg in self.lap()] != before

    def _choose_roads(self, observed: Observed) -> None:
        self.roads = Roads(self.problem, observed_problem(observed))
        self._lap = None
