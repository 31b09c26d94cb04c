"""What bounds say of the least beat is true: brute force is the oracle."""

from __future__ import annotations

import random

from planner_problems import every_plan, random_problem

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
