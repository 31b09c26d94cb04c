"""Brute force is the oracle: `exact` finds what trying every assignment of units to devices finds."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from planner_problems import PUBLISHED, SLACKS, best_of, edgeshard_testbed, every_plan, published_case, random_problem

from shardnet.errors import DoesNotFit
from shardnet.planner import Device, Link, Problem, Unit, evaluate, plan

SIZES = {2: 8, 3: 6, 4: 5}


@pytest.mark.parametrize(
    ("slack", "relays"), [*((slack, True) for slack in SLACKS), (SLACKS[-1], False)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("objective", ["latency", "throughput", "energy"])
def test_exact_equals_brute_force(objective: str, slack: float, relays: bool) -> None:
    rng = random.Random(f"{objective} {slack}")
    for _ in range(25):
        num_devices = rng.choice([2, 3, 3, 4])
        problem = random_problem(rng, num_devices, rng.randint(3, SIZES[num_devices]), slack)
        problem = dataclasses.replace(problem, relays=relays)
        plans = every_plan(problem)
        in_flight, lap_limit_s = rng.choice([1, 2, 3, 8]), math.inf
        if objective == "energy" and plans and rng.random() < 0.7:
            lap_limit_s = min(cost.lap_s for _, cost in plans) * rng.choice([1.0, 1.1, 1.5])
        expected = best_of(plans, objective, in_flight, lap_limit_s)
        limit = None if math.isinf(lap_limit_s) else lap_limit_s
        if expected is None:
            with pytest.raises(DoesNotFit):
                plan(problem, objective, "exact", in_flight, limit)
            continue
        found = plan(problem, objective, "exact", in_flight, limit)
        value, lap_s, num_devices = expected
        cost = evaluate(problem, found.stages)
        if objective == "throughput":
            assert found.rate_per_s >= 0.99 / value * (1 - 1e-7)
        else:
            assert (cost.lap_s if objective == "latency" else cost.energy_j) == pytest.approx(value, rel=1e-8)
        assert found.lap_s == pytest.approx(lap_s, rel=1e-7)
        if objective != "energy":
            assert len(found.devices) == num_devices
        assert found.optimal
        assert found.gap == 0


def test_returns_to_a_device_where_that_is_shorter() -> None:
    """The tail goes back to the source: a ring that ends where it begins needs no way back."""
    units = tuple(Unit(f"u{i}", 10, 0, 1000) for i in range(4))
    near = Device("near", 20, (1e-3,) * 4)
    fast = Device("fast", 20, (1e-4,) * 4)
    links = (Link("near", "fast", 1e-3, 1e9), Link("fast", "near", 1e-3, 1e9))
    problem = Problem(units, (near, fast), links, "near", pin_head=True)
    assert [(stage.device, stage.num_units) for stage in plan(problem).stages] == [
        ("near", 1),
        ("fast", 2),
        ("near", 1),
    ]


def test_relays_where_the_direct_link_is_slow() -> None:
    problem = published_case("latency_case", PUBLISHED["return_bits"] / 8)
    found = plan(problem, method="exact")
    assert found.lap_s == pytest.approx(0.0553265, rel=1e-5)
    hops = evaluate(problem, found.stages).hops
    assert any(len(hop.links) == 2 for hop in hops)


def test_prefers_fewer_devices_of_equal_laps() -> None:
    """A twin could take the last unit at the same lap; the device already in use takes it."""
    units = tuple(Unit(f"u{i}", 10, 0, 1000) for i in range(3))
    slow = [Device(name, 20, (1e-3, 1e-3, 1e-3)) for name in ("a", "b", "c")]
    fast = Device("fast", 10, (1e-3, 1e-5, 1e-3))
    devices = (*slow, fast)
    names = [device.name for device in devices]
    links = tuple(Link(x, y, 1e-4, 1e9) for x in names for y in names if x != y)
    found = plan(Problem(units, devices, links, "a", pin_embedding=False, return_bytes=1000), method="exact")
    assert len(found.devices) == 2


@pytest.mark.parametrize(("cloud_mbit", "lap_ms"), [(1, 173.973), (10, 101.907), (50, 59.959)])
def test_testbed_is_proven(cloud_mbit: float, lap_ms: float) -> None:
    found = plan(edgeshard_testbed(cloud_mbit), method="exact")
    assert found.optimal
    assert found.lap_s * 1e3 == pytest.approx(lap_ms, abs=1e-3)


def test_gap_is_proven_when_time_is_short() -> None:
    """With hardly any time the plan is worse than the best by no more than the gap says."""
    rng = random.Random(5)
    for _ in range(10):
        problem = random_problem(rng, 5, 14, 1.2)
        try:
            best = plan(problem, "energy", "exact")
            quick = plan(problem, "energy", "exact", time_limit_s=1e-3)
        except DoesNotFit:
            continue
        if best.optimal and quick.gap is not None:
            assert quick.energy_j <= best.energy_j * (1 + quick.gap) * (1 + 1e-9)


def test_battery_is_a_limit() -> None:
    rng = random.Random(3)
    problem = random_problem(rng, 3, 6, 6.0)
    free = plan(problem, method="exact")
    cost = evaluate(problem, free.stages)
    busiest = max(cost.device_busy_s, key=lambda name: cost.device_busy_s[name])
    spent_j = cost.device_energy_j[busiest] * problem.context_tokens
    devices = tuple(
        dataclasses.replace(device, battery_j=spent_j * 0.9) if device.name == busiest else device
        for device in problem.devices
    )
    limited = dataclasses.replace(problem, devices=devices)
    found = plan(limited, method="exact")
    assert found.lap_s > free.lap_s
    assert found.lap_s == pytest.approx(best_of(every_plan(limited), "latency")[1])
