"""Ties go to the shorter lap, then to fewer devices, and limits include their own value; no name decides anything.

Brute force over small whole numbers is the oracle: there nearly every plan is tied with others.
"""

from __future__ import annotations

import dataclasses
import random
from itertools import pairwise, product
from pathlib import Path

import pytest
from planner_problems import best_of, every_plan

from shardnet.errors import DoesNotFit
from shardnet.planner import METHODS, OBJECTIVES, Device, Link, Problem, Unit, evaluate, plan
from shardnet.planner.links import Routes
from shardnet.planner.rules import lingualinked as solver
from shardnet.planner.rules.simple import even, memory

DATA = Path(__file__).parents[1] / "data"


def problem_of_whole_numbers(rng: random.Random, num_devices: int, num_units: int) -> Problem:
    """Times of 0 to 2 ms, 0 or 1 W, sizes of 1 to 3 B."""
    units = tuple(Unit(f"u{i}", rng.randint(1, 3), 0, 0) for i in range(num_units))
    need = sum(unit.weight_bytes for unit in units)
    times = rng.choice(((0.0, 0.0, 0.0, 1e-3), (0.0, 1e-3, 1e-3, 2e-3)))
    devices = tuple(
        Device(
            f"d{d}",
            rng.randint(need // 2, need),
            tuple(rng.choice(times) for _ in units),
            active_w=rng.choice((0.0, 0.0, 1.0)),
        )
        for d in range(num_devices)
    )
    links = tuple(
        Link(f"d{a}", f"d{b}", rng.choice(times[1:3]), 1e9)
        for a, b in product(range(num_devices), repeat=2)
        if a != b and (abs(a - b) == 1 or rng.random() < 0.8)
    )
    return Problem(units, devices, links, "d0", rng.random() < 0.5, rng.random() < 0.3, 0)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ties_are_settled_as_brute_force_settles_them(objective: str) -> None:
    """Energy never looked for fewer devices, and at zero joules not even for the shorter lap."""
    rng, zero = random.Random(4), 0
    for _ in range(40):
        num_devices = rng.choice([2, 3])
        problem = problem_of_whole_numbers(rng, num_devices, rng.randint(3, {2: 7, 3: 5}[num_devices]))
        plans = every_plan(problem)
        expected = best_of(plans, objective, 2)
        if expected is None:
            continue
        value, lap_s, fewest = expected
        found = plan(problem, objective, "exact", 2)
        cost = evaluate(problem, found.stages)
        assert found.optimal
        assert (cost.lap_s, len(found.devices)) == (pytest.approx(lap_s, rel=1e-9, abs=1e-15), fewest)
        if objective == "energy":
            assert cost.energy_j == pytest.approx(value, rel=1e-9, abs=1e-15)
        zero += value == 0
    assert zero >= 3, "hardly anything was tested"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_neither_names_nor_the_order_of_devices_decide(objective: str) -> None:
    rng = random.Random(9)
    for _ in range(15):
        problem = problem_of_whole_numbers(rng, 3, rng.randint(3, 6))
        other = {"d0": "c", "d1": "b", "d2": "a"}
        devices = tuple(dataclasses.replace(device, name=other[device.name]) for device in problem.devices[::-1])
        links = tuple(Link(other[link.source], other[link.target], link.latency_s, 1e9) for link in problem.links[::-1])
        told = []
        for each in (problem, dataclasses.replace(problem, devices=devices, links=links, source=other[problem.source])):
            try:
                made = plan(each, objective, in_flight=2)
            except DoesNotFit:
                told.append(None)
                continue
            told.append((made.lap_s, made.energy_j if objective == "energy" else 0.0, len(made.devices)))
        assert told[0] is None or told[1] == pytest.approx(told[0], rel=1e-9, abs=1e-15), told


def test_the_relay_whose_radio_spends_less_wins_a_tie() -> None:
    """Of two relays that are as quick, the one whose name comes first was taken, and the joules hung on its name."""
    for num_others in (0, 70):  # beyond 64 devices routes are searched in arrays
        for dear, cheap in (("r", "s"), ("s", "r")):
            ways = [Link(a, b, 1.0, 1e30) for relay in "rs" for a, b in (("a", relay), (relay, "b"))]
            ways += [Link(f"x{i}", "a", 1.0, 1e30) for i in range(num_others)]
            ways += [Link("a", f"x{i}", 1.0, 1e30) for i in range(num_others)]
            found = Routes(ways, {dear: 2e-6, cheap: 1e-6}).links("a", "b", 8)
            assert found is not None
            assert found[0].target == cheap


def test_the_relay_with_the_quicker_slowest_link_wins_a_tie() -> None:
    for uneven, alike in (("r", "s"), ("s", "r")):
        ways = [Link("a", uneven, 3.0, 1e30), Link(uneven, "b", 1.0, 1e30)]
        ways += [Link("a", alike, 2.0, 1e30), Link(alike, "b", 2.0, 1e30)]
        found = Routes(ways).links("a", "b", 8)
        assert found is not None
        assert found[0].target == alike


@pytest.mark.parametrize("method", METHODS)
def test_the_lap_of_a_plan_is_a_limit_that_it_keeps(method: str) -> None:
    """`exact` and `auto` refused a plan's own lap: a bound within 1e-9 of the limit counted as a proof against it."""
    rng = random.Random(6)
    problems = [Problem.from_file(DATA / "own_lap_as_limit.json")]
    problems += [problem_of_whole_numbers(rng, 3, 5) for _ in range(6)]
    for problem in problems:
        for objective in OBJECTIVES:
            try:
                made = plan(problem, objective, method)
            except DoesNotFit:
                continue
            assert made.lap_s is not None
            if made.lap_s > 0:
                again = plan(problem, objective, method, lap_limit_s=made.lap_s)
                assert again.lap_s == pytest.approx(made.lap_s, rel=1e-8)
                assert plan(problem, "latency", lap_limit_s=made.lap_s).lap_s <= made.lap_s * (1 + 1e-9)


def test_no_solver_is_asked_where_the_limit_is_disproven(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` asked CBC for seconds where `exact` had refused the limit at once."""

    def asked(*_: object) -> None:
        raise AssertionError("a solver was asked")

    monkeypatch.setattr(solver, "place", asked)
    problem = Problem.from_file(DATA / "own_lap_as_limit.json")
    for objective in OBJECTIVES:
        with pytest.raises(DoesNotFit, match="No plan keeps the lap within 500 ms"):
            plan(problem, objective, lap_limit_s=0.5)


@pytest.mark.parametrize("rule", [even, memory])
def test_no_two_neighbours_are_on_one_device(rule: object) -> None:
    """With the head pinned, the simple rules gave the source two stages next to each other."""
    units = tuple(Unit(f"u{i}", 10, 0, 100) for i in range(4))
    near, none = Device("near", 90, (1e-3,) * 4), Device("none", 30, (1e-3,) * 4)
    links = (Link("near", "none", 1e-3, 1e9), Link("none", "near", 1e-3, 1e9))
    problem = Problem(units, (near, none), links, "near", pin_head=True)
    for each in (problem, dataclasses.replace(problem, units=units[:2], devices=_shortened(problem, 2))):
        stages = rule(each)  # type: ignore[operator]
        assert all(a.device != b.device for a, b in pairwise(stages))


def _shortened(problem: Problem, num_units: int) -> tuple[Device, ...]:
    return tuple(
        dataclasses.replace(device, unit_seconds=device.unit_seconds[:num_units]) for device in problem.devices
    )


def test_a_plan_that_keeps_a_tight_limit_is_found_for_the_least_energy() -> None:
    """`exact` said that no plan keeps 502.4 ms, the shortest found being 334.2 ms: it had only found none in time."""
    problem = Problem.from_file(DATA / "energy_under_a_lap.json")
    made = plan(problem, "energy", "exact", lap_limit_s=0.5024, time_limit_s=4)
    assert made.lap_s <= 0.5024 * (1 + 1e-9)
