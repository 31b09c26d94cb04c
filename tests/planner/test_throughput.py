"""What bounds say of the least beat is true: brute force is the oracle."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from planner_problems import every_plan, random_problem
from tight_problems import wild_problem

from shardnet.errors import DoesNotFit
from shardnet.plan import Link
from shardnet.planner import plan
from shardnet.planner.budget import Budget
from shardnet.planner.exact.assignment import Assignment
from shardnet.planner.exact.branching import Branching
from shardnet.planner.exact.by_class import Target
from shardnet.planner.exact.exact import Exact
from shardnet.planner.exact.minimize import roots_of
from shardnet.planner.exact.throughput import _Beats
from shardnet.planner.problem import Device, Problem, Unit
from shardnet.planner.tables import Tables
from shardnet.simulator import simulated_rate


def test_no_bound_is_above_the_least_beat() -> None:
    rng, raised = random.Random(8), 0
    for _ in range(150):
        num_devices = rng.choice([2, 3, 4])
        problem = random_problem(
            rng, num_devices, rng.randint(4, {2: 8, 3: 6, 4: 5}[num_devices]), rng.choice([1.2, 2.5])
        )
        in_flight = rng.choice([2, 4, 8])
        plans = every_plan(problem)
        if not plans:
            continue
        least_s = min(max(cost.bottleneck_s, cost.lap_s / in_flight) for _, cost in plans)
        exact = Exact(Tables(problem), Budget(60))
        beats = _Beats(exact, in_flight, exact.least_lap(float("inf"), float("inf"), exact.budget))
        before = beats.low
        for factor in (4, 2.5, 1.6, 1.3, 1.15, 1.05, 1.01):
            beats.find(least_s * factor, Budget(5), (), 100)
            assert beats.low <= least_s * (1 + 1e-6)
        raised += beats.low > before * (1 + 1e-6)
    assert raised >= 8, "hardly anything was tested"


@pytest.mark.parametrize("time_limit_s", [1e-3, 0.05, 5.0])
def test_what_is_said_of_a_rate_is_true_whenever_time_is_over(time_limit_s: float) -> None:
    """Optimal: none is more than 1% greater. A gap: none is greater by more. None at all: the shortest lap, too."""
    rng, optimal = random.Random(21), 0
    for _ in range(50):
        num_devices = rng.choice([2, 3, 4])
        num_units = rng.randint(4, {2: 8, 3: 6, 4: 5}[num_devices])
        problem = random_problem(rng, num_devices, num_units, rng.choice([1.02, 1.2, 2.5]))
        in_flight, costs = rng.choice([1, 2, 4]), [cost for _, cost in every_plan(problem)]
        if not costs:
            continue
        best = max(cost.rate(in_flight) for cost in costs)
        try:
            made = plan(problem, "throughput", "exact", in_flight, time_limit_s=time_limit_s)
        except DoesNotFit as error:
            assert "in time" in str(error)
            continue
        assert made.rate_per_s is not None
        if made.gap is not None:
            assert best <= made.rate_per_s * (1 + (made.gap or 0.01)) * (1 + 1e-7)
        if made.optimal:
            optimal += 1
            assert best * 0.99 <= made.rate_per_s * (1 + 1e-7)
            if made.gap == 0:
                tied = [cost.lap_s for cost in costs if cost.rate(in_flight) >= best * 0.99 * (1 - 1e-9)]
                assert made.lap_s == pytest.approx(min(tied), rel=1e-7)
    assert optimal >= 10


@pytest.mark.parametrize(("one_s", "other_s"), [(0.02871, 0.029), (0.03267, 0.033), (0.0485, 0.049)])
def test_beats_that_are_tied_to_the_last_digit_end_the_search(one_s: float, other_s: float) -> None:
    """The shorter lap had a beat of just 1% more, and rounding made the search begin again, without end."""
    units = Unit("u0", 1, 0, 1), Unit("u1", 10, 0, 1)
    devices = Device("s", 1, (0, 1)), Device("a", 10, (1, one_s)), Device("b", 10, (1, other_s))
    links = [Link(*ends, latency_s, 1e12) for name, latency_s in (("a", 20e-3), ("b", 1e-3)) for ends in
             (("s", name), (name, "s"))]  # fmt: skip
    problem = Problem(units, devices, tuple(links), "s")
    made = plan(problem, "throughput", "exact", 8, time_limit_s=1)
    assert made.optimal and made.solve_s < 10


def test_units_without_weight_are_placed_like_others() -> None:
    """Where all memory was 0, each node of a branch and bound was taken for one that leaves memory nowhere."""
    rng, found = random.Random(3), 0
    for _ in range(12):
        problem = random_problem(rng, 3, 6, 2.5)
        units = tuple(replace(unit, weight_bytes=0.0, kv_bytes_per_token=0.0) for unit in problem.units)
        problem = replace(problem, units=units)
        costs = [cost for _, cost in every_plan(problem)]
        if not costs:
            continue
        found += 1
        tables = Tables(problem)
        given = Assignment(tables, Target(tables.seconds, tables.hop_s), roots_of(tables))
        searched = Branching(given, Exact(tables, Budget(60)).beat_judge(np.inf, np.inf)).run(np.inf, Budget(5))
        assert searched.runs is not None
        made = plan(problem, "throughput", "exact", 4, time_limit_s=5)
        assert made.rate_per_s is not None
        assert made.rate_per_s >= max(cost.rate(4) for cost in costs) * 0.99 * (1 - 1e-7)
    assert found >= 6


def test_a_lap_limit_holds_for_other_orders_of_many_devices() -> None:
    """A plan of a shorter beat and too long a lap was learnt; then no plan was left that keeps the limit."""
    for seed in range(6):
        rng = random.Random(seed)
        problem = random_problem(rng, rng.randint(8, 10), 12, rng.choice([1.5, 3, 6]))
        try:
            limit_s = plan(problem, "latency", "exact", time_limit_s=0.5).lap_s * rng.uniform(1, 1.2)
            made = plan(problem, "throughput", "exact", rng.choice([4, 8, 16]), limit_s, time_limit_s=0.5)
        except DoesNotFit:
            continue
        assert made.lap_s <= limit_s * (1 + 1e-6)


def test_what_is_said_of_a_plan_that_is_simulated_best_is_true() -> None:
    """A tied plan took the place of the best one, and with it words that were proven of that."""
    others = 0
    for seed in range(465, 480):
        rng = random.Random(seed)
        num_devices, num_units = rng.choice([(2, 9), (3, 7)])
        problem = wild_problem(rng, num_devices, num_units, rng.choice([1.05, 1.2]))
        in_flight, costs = rng.choice([2, 3, 4]), [cost for _, cost in every_plan(problem)]
        if not costs:
            continue
        made = plan(problem, "throughput", "auto", in_flight, time_limit_s=5, simulate=simulated_rate)
        best = max(cost.rate(in_flight) for cost in costs)
        assert made.rate_per_s is not None
        others += made.gap != 0
        if made.optimal:
            assert best * 0.99 <= made.rate_per_s * (1 + 1e-7)
        if made.gap == 0:
            tied = [cost.lap_s for cost in costs if cost.rate(in_flight) >= best * 0.99 * (1 - 1e-9)]
            assert made.lap_s == pytest.approx(min(tied), rel=1e-7)
    assert others
