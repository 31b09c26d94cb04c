"""The search unit by unit with two loads counted: brute force is the oracle, also for split groups."""

from __future__ import annotations

import random

import numpy as np
import pytest
from planner_problems import TIGHT, every_plan, random_problem, small_problems

from shardnet.planner.budget import Budget
from shardnet.planner.exact import diving
from shardnet.planner.exact.assignment import Assignment
from shardnet.planner.exact.by_class import Second, Target
from shardnet.planner.exact.counted import Counted
from shardnet.planner.exact.diving import Diving
from shardnet.planner.exact.exact import Exact
from shardnet.planner.exact.minimize import roots_of
from shardnet.planner.exact.partial import Partial
from shardnet.planner.tables import Tables


@pytest.fixture(params=[None, (60, 5, 7)], ids=["whole", "in small groups and coarse grains"])
def split(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small groups every path of the code is gone even in small problems."""
    if request.param is not None:
        for name, value in zip(("MOST_AT_ONCE", "GROUP", "GRAIN"), request.param):
            monkeypatch.setattr(diving, name, value)


@pytest.mark.usefixtures("split")
def test_finds_the_shortest_lap_and_proves_it() -> None:
    fitting = 0
    for problem in small_problems(11, 16):
        laps = [cost.lap_s for _, cost in every_plan(problem)]
        tables, exact = Tables(problem), Exact(Tables(problem), Budget(60))
        assignment = Assignment(tables, Target(tables.seconds, tables.hop_s), roots_of(tables))
        if not assignment.allowed.any(axis=1).all():
            continue
        found = Diving(assignment, exact.beat_judge(np.inf)).run(np.inf, Budget(60))
        assert found.unseen == np.inf
        assert found.cost == pytest.approx(min(laps, default=np.inf), rel=1e-9)
        fitting += bool(laps)
    assert fitting >= 8


@pytest.mark.usefixtures("split")
def test_proves_a_plan_that_is_known_and_denies_a_better_one() -> None:
    for problem in small_problems(12, 12):
        least = min((cost.lap_s for _, cost in every_plan(problem)), default=None)
        if least is None:
            continue
        tables, exact = Tables(problem), Exact(Tables(problem), Budget(60))
        assignment = Assignment(tables, Target(tables.seconds, tables.hop_s), roots_of(tables))
        none = Diving(assignment, exact.beat_judge(np.inf)).run(least, Budget(60))
        assert none.runs is None
        assert none.unseen == np.inf
        found = Diving(assignment, exact.beat_judge(np.inf)).run(least * (1 + 1e-6), Budget(60), enough=True)
        assert found.cost == pytest.approx(least, rel=1e-9)


@pytest.mark.usefixtures("split")
def test_keeps_a_beat() -> None:
    """The least lap of plans in which no device is busy for longer; links are the judge's business."""
    held = 0
    for problem in small_problems(13, 16):
        plans = every_plan(problem)
        if not plans:
            continue
        beat_s = sorted(cost.bottleneck_s for _, cost in plans)[len(plans) // 50] * (1 + 1e-12)
        exact = Exact(Tables(problem), Budget(60))
        assignment = Assignment(exact.tables, exact.beat_target(beat_s), roots_of(exact.tables))
        found = Diving(assignment, exact.beat_judge(beat_s)).run(np.inf, Budget(60))
        expected = min(cost.lap_s for _, cost in plans if cost.bottleneck_s <= beat_s * (1 + 1e-9))
        assert found.cost == pytest.approx(expected, rel=1e-9)
        assert found.unseen == np.inf
        held += 1
    assert held >= 6


@pytest.mark.usefixtures("split")
def test_keeps_a_second_limit() -> None:
    """The least energy under a lap limit; batteries are limits, too."""
    held = 0
    for problem in small_problems(14, 16):
        plans = every_plan(problem)
        if not plans:
            continue
        limit_s = min(cost.lap_s for _, cost in plans) * random.Random(len(plans)).choice([1.0, 1.1, 1.5])
        exact = Exact(Tables(problem), Budget(60), limit_s)
        tables, kept_s = exact.tables, limit_s * (1 + 1e-9)
        watts = np.array([device.active_w for device in problem.devices], dtype=float)
        joules = np.where(np.isfinite(tables.hop_s), tables.radio_j, np.inf)
        target = Target(tables.seconds * watts, joules, second=Second(tables.seconds, tables.hop_s, kept_s))

        def judge(runs: tuple[tuple[int, int], ...], exact: Exact = exact, kept_s: float = kept_s) -> float:
            cost = exact.cost(runs)
            return np.inf if cost is None or cost.energy_j is None or cost.lap_s > kept_s else cost.energy_j

        found = Diving(Assignment(tables, target, roots_of(tables)), judge).run(np.inf, Budget(60))
        expected = min(cost.energy_j for _, cost in plans if cost.energy_j is not None and cost.lap_s <= kept_s)
        assert found.cost == pytest.approx(expected, rel=1e-9)
        assert found.unseen == np.inf
        held += 1
    assert held >= 6


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
