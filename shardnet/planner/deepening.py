"""Where quick searches leave a gap: annealing for better plans, then branch and bound, then HiGHS. Pure.

The last two find, prove, or both; neither is always the better one. HiGHS is asked where it is installed, once, for all
the time that is left then.

For clusters of a few devices. Where memory is tight, the best plans visit devices again and again, and neither is found
by going through the units in order.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from shardnet.planner import highs
from shardnet.planner.annealing import anneal
from shardnet.planner.assignment import Assignment, Judge, Runs, owners_of, runs_of
from shardnet.planner.branching import Branching
from shardnet.planner.budget import Budget
from shardnet.planner.by_class import Second, Target
from shardnet.planner.programme import Programme
from shardnet.planner.search import Found
from shardnet.planner.tables import Ints, Tables

MOST_DEVICES = 16
"""A branch and bound keeps a bit for each device, and time for each pair of them."""
NUM_STEPS = 6000, 12000
"""Of annealing, for the first time and for every other one."""
ANNEALING_SHARE, NEAR_SHARE, FIRST_SHARE = 0.35, 0.25, 0.5
"""Of the time that is left: what annealing may take, then the neighbourhoods, then the first part of the proof."""
SOLVER_SHARES, SECOND_SHARES = (0.15, 0.15, 0.3), (0.1, 0.02, 0.02)
"""The same where HiGHS takes the rest; under a second limit it is by far the best of them."""
LEAST_SOLVER_S = 0.2
"""With less time HiGHS is not asked: it would hardly have begun."""
MOST_JUDGED = 16
"""Of the assignments that annealing finds, so many are judged, and"""
MOST_POLISHED = 4
"""the neighbourhoods of so many are searched."""
FAR, POSITIVE = 1e6, 1e-4
"""The cost of what is not allowed, where all that is allowed costs nothing; and a bound that is surely above nothing:
with higher prices it would be as high as one likes."""
DEVICES, WINDOW, STRIDE, MOST_GROUPS = 3, 8, 3, 120
"""A neighbourhood: the units of some devices among these, or some consecutive units anywhere."""


class Deepening:
    """One problem under one target; each call goes on where the last one ended."""

    def __init__(self, tables: Tables, target: Target, roots: list[int], judge: Judge, limit_s: float = np.inf) -> None:
        self._limit_s = limit_s
        self._target, self._given, self._judge = target, Assignment(tables, target, roots), judge
        self._branching = Branching(self._given, judge)
        self._packing: Branching | None = None
        if np.isfinite(target.busy_limit_s) and np.isfinite(limit_s):
            packed = self._packed(target, roots)
            self._packing = Branching(packed, lambda runs: 0.5 if self._kept(runs) else np.inf, closing=POSITIVE)
        self._chance = np.random.default_rng(5)
        self._calls = 0

    @classmethod
    def suits(cls, tables: Tables) -> bool:
        """Whether the cluster is small enough."""
        return 1 < tables.num_devices <= MOST_DEVICES and tables.num_units > 1

    def run(self, upper: float, budget: Budget, enough: bool, known: Runs | None = None) -> Found:
        """Search for a plan that costs less than `upper`.

        Args:
            enough: any such plan will do.
            known: a plan that costs `upper`.
        """
        if not self._given.allowed.any(axis=1).all():
            return Found(None, upper, np.inf)
        steps, self._calls = NUM_STEPS[min(self._calls, 1)], self._calls + 1
        asks = self._calls == 1 and budget.left_s > LEAST_SOLVER_S and highs.installed()
        with_solver = SOLVER_SHARES if self._target.second is None else SECOND_SHARES
        shares = with_solver if asks else (ANNEALING_SHARE, NEAR_SHARE, FIRST_SHARE if self._calls == 1 else 1.0)
        found = [runs for runs in self._annealed(steps, budget.share(shares[0])) if self._judge(runs) < np.inf]
        best, cost = self._better(None, upper, found)
        if not enough or best is None:
            polished = self._polished(found, budget.share(shares[1]))
            best, cost = self._better(best, cost, polished)
        if enough and best is not None:
            return Found(best, cost, -np.inf)
        until = budget.share(shares[2])
        if enough and self._packing is not None:
            proof = self._fits(self._packing, upper, until)
        else:
            proof = self._branching.run(cost, until)
        if proof.runs is None:
            proof = Found(best, cost, proof.unseen)
        if not asks or proof.unseen >= proof.cost or (enough and proof.runs is not None):
            return proof
        return self._solved(proof, budget, enough, known)

    def _solved(self, before: Found, budget: Budget, enough: bool, known: Runs | None) -> Found:
        """What HiGHS makes of it; a plan of its own counts if the judge finds it better."""
        programme = Programme.of(self._given.tables, self._target, self._given.roots)
        if enough:
            if np.isfinite(before.cost):
                programme.limit(programme.costs, before.cost)
            programme.costs = []
        start = known if before.runs is None else before.runs
        given = None if start is None or enough else owners_of(start)
        answer = highs.solve(programme, budget, given)
        found = [] if answer.owners is None else [runs_of(answer.owners)]
        best, cost = self._better(before.runs, before.cost, found)
        bound = answer.bound if not enough or answer.bound == np.inf else -np.inf
        return Found(best, cost, max(before.unseen, bound))

    def disproves(self, budget: Budget) -> bool:
        """Whether it is shown that no plan keeps the beat and its limit of the lap."""
        if not self._given.allowed.any(axis=1).all():
            return True
        assert self._packing is not None, "a beat and a limit are given"
        return self._fits(self._packing, self._limit_s, budget).unseen == np.inf

    def _packed(self, target: Target, roots: list[int]) -> Assignment:
        """The same limits with nothing to pay: whether units fit devices and beat at all.

        Where the lap is far below its limit, prices on what is busy would have to make up for all of that before they
        show that a beat is too short. Here the lap is one limit among others, and prices of any height show it.
        """
        tables = self._given.tables
        open_ = np.where(np.isfinite(target.hop_cost), 0.0, np.inf)
        laps = Second(tables.seconds, tables.hop_s, self._limit_s)
        return Assignment(tables, Target(tables.seconds * 0, open_, target.busy_limit_s, laps), roots, FAR)

    def _kept(self, runs: Runs) -> bool:
        return self._judge(runs) < self._limit_s

    def _fits(self, packing: Branching, upper: float, budget: Budget) -> Found:
        proof = packing.run(1.0, budget, enough=True)
        if proof.runs is not None:
            return Found(proof.runs, self._judge(proof.runs), -np.inf)
        return Found(None, upper, np.inf if np.isinf(proof.unseen) else -np.inf)

    def _better(self, best: Runs | None, cost: float, others: list[Runs]) -> tuple[Runs | None, float]:
        for runs in others:
            if self._judge(runs) < cost:
                best, cost = runs, self._judge(runs)
        return best, cost

    def _annealed(self, num_steps: int, budget: Budget) -> list[Runs]:
        owners, values = anneal(self._given, self._given.cost, num_steps, budget, self._chance)
        several = [self._given.runs(owners[:, n]) for n in range(min(len(values), MOST_JUDGED))]
        return list(dict.fromkeys(several))

    def _polished(self, found: list[Runs], budget: Budget) -> list[Runs]:
        """What branch and bound makes of the best plans, going from neighbourhood to neighbourhood."""
        polished = []
        for number, runs in enumerate(sorted(found, key=self._judge)[:MOST_POLISHED]):
            until = budget.share(1 / (MOST_POLISHED - number))
            while not until.spent:
                near = Branching(self._given, self._judge, self._neighbourhoods(np.array(owners_of(runs))))
                better = near.run(self._judge(runs), until)
                if better.runs is None:
                    break
                runs = better.runs
            polished.append(runs)
        return polished

    def _neighbourhoods(self, owners: Ints) -> NDArray[np.bool_]:
        """Where each unit may be [u, d, i]: where it is, or free in one of many ways."""
        num_units, num_devices = self._given.allowed.shape
        here = np.eye(num_devices, dtype=bool)[owners]
        parts = []
        groups = list(combinations(range(num_devices), min(DEVICES, num_devices)))
        for group in groups if len(groups) <= MOST_GROUPS else self._chance.permutation(groups)[:MOST_GROUPS]:
            part, devices = here.copy(), np.array(group)
            part[np.ix_(np.isin(owners, devices), devices)] = True
            parts.append(part)
        for first in range(0, max(1, num_units - WINDOW + 1), STRIDE):
            part = here.copy()
            part[first : first + WINDOW] = True
            parts.append(part)
        return np.stack(parts, axis=2)
