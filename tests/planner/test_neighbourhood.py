"""The best use of a row of devices is exact, and a mix of rows finds a shorter beat in a large cluster."""

from __future__ import annotations

import random
from itertools import combinations, combinations_with_replacement, pairwise

import numpy as np
import pytest
from planner_problems import mixed_cluster, random_problem

from shardnet.errors import BadConfiguration
from shardnet.planner.budget import Budget
from shardnet.planner.costs import broken_limit, evaluate
from shardnet.planner.exact.exact import Exact
from shardnet.planner.exact.neighbourhood import _Rows
from shardnet.planner.tables import Tables, as_stages


def shortest(tables: Tables, row: list[int], beat_s: float) -> float:
    """Brute force: every choice of devices in the row's order, every cut of the units."""
    problem, laps = tables.problem, [np.inf]
    for size in range(1, len(row) + 1):
        for chosen in combinations(range(len(row)), size):
            if chosen[0] != 0:
                continue
            for cuts in combinations_with_replacement(range(1, problem.num_units), size - 1):
                edges = (0, *cuts, problem.num_units)
                if any(a == b for a, b in pairwise(edges)):
                    continue
                stages = as_stages(problem, [(row[j], end - 1) for j, end in zip(chosen, edges[1:])])
                try:
                    cost = evaluate(problem, stages)
                except BadConfiguration:
                    continue
                if broken_limit(problem, stages, cost) is None and max(cost.device_busy_s.values()) <= beat_s:
                    laps.append(cost.lap_s)
    return min(laps)


def test_a_row_is_used_as_well_as_it_can_be() -> None:
    rng, found = random.Random(3), 0
    for _ in range(60):
        problem = random_problem(rng, 4, rng.randint(4, 7))
        if any(device.battery_j for device in problem.devices):
            continue
        tables = Tables(problem)
        row = [0, *rng.sample([1, 2, 3], 3)]
        beat_s = rng.choice([0.004, 0.01, 0.03])
        best = _Rows(tables, beat_s, tables.hop_s).best(np.array(row))
        expected = shortest(tables, row, beat_s)
        if best is None:
            assert expected == np.inf
        else:
            assert best[0] == pytest.approx(expected, rel=1e-9)
            found += 1
    assert found > 15


def test_other_devices_in_another_order_keep_a_shorter_beat() -> None:
    problem = mixed_cluster(40, 40, 5, alike=False)
    exact = Exact(Tables(problem), Budget(60))
    lap = exact.least_lap(np.inf, np.inf, Budget(60))
    assert lap.runs is not None
    beat_s = 0.8 * exact.known(lap.runs).bottleneck_s
    other = exact.rearranged(beat_s, 8, lap.runs, Budget(20), np.random.default_rng(1))
    assert other is not None
    cost = evaluate(problem, as_stages(problem, other))
    assert cost.bottleneck_s <= beat_s * (1 + 1e-9) and cost.lap_s <= 8 * beat_s * (1 + 1e-9)
