"""What bounds say of the least beat is true: brute force is the oracle."""

from __future__ import annotations

import random

import pytest
from planner_problems import every_plan, random_problem

from shardnet.errors import DoesNotFit
from shardnet.planner import plan
from shardnet.planner.budget import Budget
from shardnet.planner.exact import Exact
from shardnet.planner.tables import Tables
from shardnet.planner.throughput import _Beats


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
