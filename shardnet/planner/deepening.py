"""Where quick searches leave a gap: annealing for a better plan, then branch and bound for the proof. Pure.

For clusters of a few devices. Where memory is tight, the best plans visit devices again and again, and neither is found
by going through the units in order.
"""

from __future__ import annotations

import numpy as np

from shardnet.planner.annealing import anneal
from shardnet.planner.assignment import Assignment, Judge
from shardnet.planner.branching import Branching
from shardnet.planner.budget import Budget
from shardnet.planner.by_class import Target
from shardnet.planner.search import Found
from shardnet.planner.tables import Tables

MOST_DEVICES = 16
"""A branch and bound keeps a bit for each device, and time for each pair of them."""
NUM_STEPS = 6000, 12000
"""Of annealing, for the first time and for every other one."""
ANNEALING_SHARE, FIRST_SHARE = 0.35, 0.5
"""Of the time that is left: what annealing may take, and after it the first part of the branch and bound."""
MOST_JUDGED = 16
"""Of the assignments that annealing finds, so many are judged."""


class Deepening:
    """One problem under one target; each call goes on where the last one ended."""

    def __init__(self, tables: Tables, target: Target, roots: list[int], judge: Judge) -> None:
        self._given, self._judge = Assignment(tables, target, roots), judge
        self._branching = Branching(self._given, judge)
        self._chance = np.random.default_rng(5)
        self._calls = 0

    @classmethod
    def suits(cls, tables: Tables) -> bool:
        """Whether the cluster is small enough."""
        return 1 < tables.num_devices <= MOST_DEVICES and tables.num_units > 1

    def run(self, upper: float, budget: Budget, enough: bool) -> Found:
        """Search for a plan that costs less than `upper`; `enough`: any such plan will do."""
        if not self._given.allowed.any(axis=1).all():
            return Found(None, upper, np.inf)
        steps, self._calls = NUM_STEPS[min(self._calls, 1)], self._calls + 1
        better = self._annealed(upper, steps, budget.share(ANNEALING_SHARE))
        if enough and better.runs is not None:
            return better
        until = budget.share(FIRST_SHARE) if self._calls == 1 else budget
        found = self._branching.run(better.cost, until)
        return found if found.runs is not None else Found(better.runs, better.cost, found.unseen)

    def _annealed(self, upper: float, num_steps: int, budget: Budget) -> Found:
        owners, values = anneal(self._given, self._given.cost, num_steps, budget, self._chance)
        found = Found(None, upper, -np.inf)
        for n in range(min(len(values), MOST_JUDGED)):
            if values[n] < found.cost:
                runs = self._given.runs(owners[:, n])
                cost = self._judge(runs)
                if cost < found.cost:
                    found = Found(runs, cost, -np.inf)
        return found
