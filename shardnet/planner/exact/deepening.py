"""Where quick searches leave a gap: annealing for better plans, then two searches for a proof beside HiGHS. Pure.

Branch and bound is quick to prove what is not hard; then the search unit by unit of `diving` gets most of the time that
is left, unless there is a beat to keep. HiGHS, where it is installed, works in a thread of its own. What one of them
finds is a limit for the others.

For clusters of a few devices. Where memory is tight, the best plans visit devices again and again, and neither is found
by going through the units in order.
"""

from __future__ import annotations

from itertools import combinations, count

import numpy as np
from numpy.typing import NDArray

from shardnet.planner.budget import Budget
from shardnet.planner.exact import highs
from shardnet.planner.exact.annealing import anneal
from shardnet.planner.exact.assignment import Assignment, Judge, Runs, owners_of, runs_of
from shardnet.planner.exact.branching import PROOF, Branching
from shardnet.planner.exact.by_class import Second, Target
from shardnet.planner.exact.diving import Diving
from shardnet.planner.exact.programme import Programme
from shardnet.planner.exact.search import Found
from shardnet.planner.tables import Ints, Tables

MOST_DEVICES = 16
"""A branch and bound keeps a bit for each device, and time for each pair of them."""
NUM_STEPS = 6000, 12000
"""Of annealing, for the first time and for every other one."""
ANNEALING_SHARE, NEAR_SHARE, FIRST_SHARE = 0.15, 0.15, 0.8
"""Of the time that is left: what annealing may take, then the neighbourhoods, then the first part of the proof."""
BRANCHING_SHARE, BRANCHING_TURN = 0.1, 4
"""Of the time for the proof: what branch and bound gets first, before only every so many slices are its own."""
SLICE_S = 0.2
"""After so long the searches hear what HiGHS has found."""
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
WIDER_DEVICES, WIDER_WINDOW = 4, 12


class Deepening:
    """One problem under one target; each call goes on where the last one ended."""

    def __init__(
        self,
        tables: Tables,
        target: Target,
        roots: list[int],
        judge: Judge,
        limit_s: float = np.inf,
        alone: bool = False,
    ) -> None:
        self._limit_s, self._alone = limit_s, alone
        self._target, self._given, self._judge = target, Assignment(tables, target, roots), judge
        self._branching = Branching(self._given, judge)
        # Under a beat, branch and bound alone found better plans in the same time.
        self._diving = None if np.isfinite(target.busy_limit_s) else Diving(self._given, judge)
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
        asks = not self._alone and self._calls == 1 and budget.left_s > LEAST_SOLVER_S and highs.installed()
        before = self._near(upper, budget, enough, steps)
        if enough and before.runs is not None:
            return before
        if asks:
            return self._with_solver(before, budget, enough, known)
        return self._searched(None, before, budget.share(FIRST_SHARE if self._calls == 1 else 1.0), enough)

    def _near(self, upper: float, budget: Budget, enough: bool, steps: int) -> Found:
        """What annealing finds, and then small changes to it."""
        found = [runs for runs in self._annealed(steps, budget.share(ANNEALING_SHARE)) if self._judge(runs) < np.inf]
        best, cost = self._better(None, upper, found)
        if not enough or best is None:
            polished = self._polished(found, budget.share(NEAR_SHARE))
            best, cost = self._better(best, cost, polished)
        return Found(best, cost, -np.inf)

    def _proven(self, before: Found, budget: Budget, branching: bool, enough: bool) -> Found:
        """What branch and bound makes of it in a slice of the time, or the search unit by unit."""
        part = budget.at_most(SLICE_S)
        if enough and self._packing is not None:  # prices of any height show more there than a count of two devices
            proof = self._fits(self._packing, before.cost, part)
        elif branching or self._diving is None:
            proof = self._branching.run(before.cost, part)
        else:
            proof = self._diving.run(before.cost, part, enough, budget)
        unseen = max(before.unseen, proof.unseen)
        return Found(before.runs, before.cost, unseen) if proof.runs is None else Found(proof.runs, proof.cost, unseen)

    def _with_solver(self, before: Found, budget: Budget, enough: bool, known: Runs | None) -> Found:
        """What our searches and HiGHS make of it together; a plan counts if the judge finds it better."""
        start = known if before.runs is None else before.runs
        solver = highs.Beside(
            self._programme(before.cost, enough),
            budget.left_s,
            None if start is None or enough else owners_of(start),
        )
        try:
            found = self._searched(solver, before, budget, enough)
        finally:
            answer = solver.end()
        best, cost = self._better(found.runs, found.cost, _plans(answer.owners))
        bound = answer.bound if not enough or answer.bound == np.inf else -np.inf
        return Found(best, cost, max(found.unseen, bound))

    def _programme(self, upper: float, enough: bool) -> Programme:
        programme = Programme.of(self._given.tables, self._target, self._given.roots)
        if enough:
            if np.isfinite(upper):
                programme.limit(programme.costs, upper)
            programme.costs = []
        return programme

    def _searched(self, solver: highs.Beside | None, before: Found, budget: Budget, enough: bool) -> Found:
        """Our searches in slices, until one of all has ended with a proof, or the time is over."""
        found, first = before, budget.share(BRANCHING_SHARE)
        for turn in count():
            if budget.spent:
                break
            branching = not first.spent or turn % BRANCHING_TURN == 0
            found = self._proven(found, budget, branching, enough)
            if found.unseen >= found.cost or (enough and found.runs is not None):
                break
            if solver is None:
                continue
            best, cost = self._better(found.runs, found.cost, _plans(solver.found()))
            found = Found(best, cost, found.unseen)
            if not solver.runs:
                answer = solver.end()
                if answer.bound >= found.cost * (1 - PROOF) or (enough and answer.owners is not None):
                    break
        return found

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

    def near(self, runs: Runs, upper: float, budget: Budget) -> Runs | None:
        """A plan in the neighbourhood of another one, which may break the limits, that costs less than `upper`."""
        if not self._given.allowed.any(axis=1).all():
            return None
        for devices, window in ((DEVICES, WINDOW), (WIDER_DEVICES, WIDER_WINDOW)):
            within = self._neighbourhoods(np.array(owners_of(runs)), devices, window)
            better = Branching(self._given, self._judge, within).run(upper, budget, enough=True).runs
            if better is not None:
                return better
        return None

    def _neighbourhoods(self, owners: Ints, devices: int = DEVICES, window: int = WINDOW) -> NDArray[np.bool_]:
        """Where each unit may be [u, d, i]: where it is, or free in one of many ways."""
        num_units, num_devices = self._given.allowed.shape
        here = np.eye(num_devices, dtype=bool)[owners]
        parts = []
        groups = list(combinations(range(num_devices), min(devices, num_devices)))
        for group in groups if len(groups) <= MOST_GROUPS else self._chance.permutation(groups)[:MOST_GROUPS]:
            part, free = here.copy(), np.array(group)
            part[np.ix_(np.isin(owners, free), free)] = True
            parts.append(part)
        for first in range(0, max(1, num_units - window + 1), STRIDE):
            part = here.copy()
            part[first : first + window] = True
            parts.append(part)
        return np.stack(parts, axis=2)


def _plans(owners: list[int] | None) -> list[Runs]:
    return [] if owners is None else [runs_of(owners)]
