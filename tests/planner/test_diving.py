"""The search unit by unit with two loads counted: brute force is the oracle. See test_searches.py for more of it."""

from __future__ import annotations

import random

import numpy as np
import pytest
from planner_problems import TIGHT, every_plan, random_problem, small_problems

from shardnet.planner.budget import Budget
from shardnet.planner.exact.assignment import Assignment
from shardnet.planner.exact.by_class import Target
from shardnet.planner.exact.counted import Counted
from shardnet.planner.exact.diving import Diving
from shardnet.planner.exact.exact import Exact
from shardnet.planner.exact.minimize import roots_of
from shardnet.planner.exact.partial import Partial
from shardnet.planner.tables import Tables


def test_bounds_hold_at_any_prices() -> None:
    """No plan that keeps the limits costs less than the bound of what it begins with."""
    chance, checked = np.random.default_rng(15), 0
    for seed in range(24):
        problem = random_problem(random.Random(seed), 3, 6, TIGHT[seed % len(TIGHT)])
        tables, plans = Tables(problem), every_plan(problem)
        assignment = Assignment(tables, Target(tables.seconds, tables.hop_s), roots_of(tables))
        index = problem.index
        for stages, cost in plans[:: max(1, len(plans) // 20)]:
            owners = np.array([index[s.device] for s in stages for _ in range(s.first_unit, s.last_unit + 1)])
            if owners[0] not in assignment.roots:
                continue
            placed = int(chance.integers(1, problem.num_units))
            prices = chance.exponential(cost.lap_s, assignment.loads[:, 0].size + 1) * (chance.random() < 0.9)
            prices[-1] = 0.0
            some = _begun(assignment, owners[:placed])
            counted = Counted(assignment, some, (0, 1) if placed % 2 else (2, 1), int(chance.integers(3, 30)))
            bound, _ = counted.rests(counted.table(prices), some)
            assert bound[0] <= cost.lap_s + 1e-5 * (cost.lap_s + prices.sum())
            checked += 1
    assert checked > 100


def _begun(given: Assignment, owners: np.ndarray) -> Partial:
    """The units so far on these devices."""
    used, cost = np.zeros(given.loads[:, 0].size + 1), 0.0
    for u, d in enumerate(owners.tolist()):
        used[d : -1 : given.allowed.shape[1]] += given.loads[:, u, d]
        cost += given.unit[u, d] + (given.hop[u - 1, owners[u - 1], d] if u else 0.0)
    return Partial(
        owners[None].astype(np.uint8), np.array([cost]), used[None], np.zeros(1), np.zeros(1, dtype=np.int64)
    )


def test_spent_time_leaves_a_bound_that_holds() -> None:
    """A search that is cut and gone on with ends as an uncut one does."""
    for problem in small_problems(16, 5):
        laps = [cost.lap_s for _, cost in every_plan(problem)]
        if not laps:
            continue
        tables, exact = Tables(problem), Exact(Tables(problem), Budget(60))
        assignment = Assignment(tables, Target(tables.seconds, tables.hop_s), roots_of(tables))
        search, found, best = Diving(assignment, exact.beat_judge(np.inf)), None, np.inf
        for _ in range(10_000):
            found = search.run(best, Budget(1e-6), end=Budget(60))
            best = found.cost
            assert min(best, found.unseen) <= min(laps) * (1 + 1e-9)
            if found.unseen == np.inf:
                break
        assert best == pytest.approx(min(laps), rel=1e-9)
