"""What packing says of a beat is true: brute force is the oracle, and the testbed shows what it is for."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from planner_problems import edgeshard_testbed, every_plan, random_problem

from shardnet.plan import Link
from shardnet.planner import plan
from shardnet.planner.budget import Budget
from shardnet.planner.exact.by_class import ByClass
from shardnet.planner.exact.counting import counts_fit
from shardnet.planner.exact.exact import Exact
from shardnet.planner.exact.packing import sets_fit
from shardnet.planner.problem import Device, Problem, Unit
from shardnet.planner.tables import Tables


def test_sets_never_exclude_a_beat_that_a_plan_keeps() -> None:
    rng, excluded = random.Random(5), 0
    for _ in range(150):
        num_devices = rng.choice([2, 3, 4])
        num_units = rng.randint(4, {2: 8, 3: 6, 4: 5}[num_devices])
        problem = random_problem(rng, num_devices, num_units, rng.choice([1.2, 2.5]))
        plans = every_plan(problem)
        if not plans:
            continue
        least_s = min(cost.bottleneck_s for _, cost in plans)
        exact = Exact(Tables(problem), Budget(60))
        kept = [ByClass(exact.tables, exact.beat_target(least_s * factor)) for factor in (1.0, 1.001, 1.2)]
        assert all(sets_fit(by_class) for by_class in kept)
        excluded += not sets_fit(ByClass(exact.tables, exact.beat_target(least_s * 0.98)))
    assert excluded >= 40, "hardly anything was tested"


@pytest.mark.parametrize("num_devices", [2, 3, 4])
def test_sets_exclude_nothing_where_any_device_can_hold_all_units(num_devices: int) -> None:
    units = tuple(Unit(f"unit {i}", 1.0, 0, 8.0) for i in range(6))
    devices = tuple(Device(f"device-{i}", 100.0, (0.01,) * 6) for i in range(num_devices))
    links = tuple(Link(a.name, b.name, 1e-3, 1e9) for a, b in permutations(devices, 2))
    problem = Problem(units, devices, links, "device-0", pin_embedding=False)
    exact = Exact(Tables(problem), Budget(60))
    for beat_s in (0.06, 0.12):  # all want each unit equally often: steps of the prices lead to no price at all
        assert sets_fit(ByClass(exact.tables, exact.beat_target(beat_s)))


def test_sets_exclude_what_counting_cannot() -> None:
    exact = Exact(Tables(edgeshard_testbed(1)), Budget(60))
    by_class = ByClass(exact.tables, exact.beat_target(15.57e-3))
    assert counts_fit(by_class)
    assert not sets_fit(by_class), "too few sets of three blocks are that short"


@pytest.mark.parametrize("in_flight", [15, 32])
def test_the_testbed_is_proven_for_many_sessions_in_flight(in_flight: int) -> None:
    made = plan(edgeshard_testbed(1), "throughput", in_flight=in_flight)
    assert made.optimal
    assert made.bottleneck_s == pytest.approx(15.734e-3, rel=1e-9)
