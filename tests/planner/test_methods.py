"""Every method on the published instances and on random problems; what a plan tells; what fits nowhere."""

from __future__ import annotations

import builtins
import dataclasses
import json
import random
import subprocess
import sys
from typing import Any

import pytest
from planner_problems import PUBLISHED, published_case, random_problem

from shardnet.errors import BadConfiguration, BadRequest, DoesNotFit, ShardnetError
from shardnet.plan import Plan
from shardnet.planner import METHODS, Device, Link, Problem, Unit, compare, evaluate, plan, plan_to_dict
from shardnet.planner.costs import broken_limit
from shardnet.planner.rules.lingualinked import overlap

LOGITS = PUBLISHED["return_bits"] / 8


def test_edgeshard_latency_is_the_published_one() -> None:
    found = plan(published_case("latency_case", LOGITS), method="edgeshard")
    assert found.lap_s * 1e3 == pytest.approx(PUBLISHED["expected"]["edgeshard_latency_ms"], abs=5e-5)


def test_edgeshard_throughput_is_the_published_one() -> None:
    found = plan(published_case("throughput_case", 8), "throughput", "edgeshard", in_flight=4)
    assert found.bottleneck_s * 1e3 == pytest.approx(PUBLISHED["expected"]["edgeshard_bottleneck_ms"], abs=5e-5)
    assert found.lap_s * 1e3 == pytest.approx(PUBLISHED["expected"]["lap_ms_of_the_edgeshard_throughput_plan"], abs=1)


def test_auto_beats_both() -> None:
    quickest = plan(published_case("latency_case", 8))
    assert quickest.lap_s * 1e3 <= PUBLISHED["expected"]["latency_ms_when_a_token_id_returns"]
    for in_flight in (1, 2, 4, 8):
        found = plan(published_case("throughput_case", 8), "throughput", in_flight=in_flight)
        assert found.bottleneck_s * 1e3 == pytest.approx(PUBLISHED["expected"]["edgeshard_bottleneck_ms"], abs=5e-5)
        assert found.lap_s * 1e3 <= 88.1


def is_worse(mine: Plan, other: Plan) -> bool:
    """Whether another plan is better by the objective, near-ties of a rate by the lap."""
    if mine.objective == "latency":
        return mine.lap_s > other.lap_s * (1 + 1e-8)
    if mine.objective == "energy":
        return mine.energy_j > other.energy_j * (1 + 1e-8)
    return mine.rate_per_s < 0.99 * other.rate_per_s * (1 - 1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_auto_is_never_worse(seed: int) -> None:
    """The bench runs 1,000 of these: see tests/bench/bench_planner.py."""
    rng = random.Random(seed)
    for _ in range(10):
        problem = random_problem(rng, rng.randint(2, 6), rng.randint(6, 16))
        for objective in ("latency", "throughput", "energy"):
            in_flight = rng.choice([1, 2, 4, 8])
            others = [name for name in METHODS if name not in ("auto", "lingualinked")]
            plans = {name: attempt(problem, objective, name, in_flight) for name in ("auto", *others)}
            mine = plans.pop("auto")
            for name, other in plans.items():
                assert other is None or (mine is not None and not is_worse(mine, other)), (name, seed)


def attempt(problem: Problem, objective: str, method: str, in_flight: int) -> Plan | None:
    """The plan of a method, checked against the limits; None where it has none."""
    try:
        made = plan(problem, objective, method, in_flight, time_limit_s=2.0)
    except DoesNotFit:
        return None
    assert broken_limit(problem, made.stages, evaluate(problem, made.stages)) is None
    return made


def test_auto_is_never_worse_than_lingualinked() -> None:
    pytest.importorskip("pulp")
    rng = random.Random(11)
    fitted = 0
    for _ in range(8):
        problem = random_problem(rng, rng.randint(2, 4), rng.randint(6, 10), 2.5)
        other = attempt(problem, "latency", "lingualinked", 1)
        if other is not None:
            fitted += 1
            assert not is_worse(plan(problem), other)
            assert other.devices == tuple(dict.fromkeys(other.devices))
    assert fitted >= 4


def test_lingualinked_places_one_run_per_device_and_copies_at_boundaries() -> None:
    pytest.importorskip("pulp")
    units = tuple(Unit(f"u{i}", 10, 0, 100) for i in range(8))
    devices = tuple(Device(name, 45, (seconds,) * 8) for name, seconds in (("a", 0.03), ("b", 0.02), ("c", 0.01)))
    links = tuple(Link(x, y, 0.001, 1e6) for x in "abc" for y in "abc" if x != y)
    problem = Problem(units, devices, links, "a")
    found = plan(problem, method="lingualinked")
    assert found.devices[0] == "a"
    assert len(found.stages) == len(found.devices)
    copies = overlap(problem, found.stages)
    for stage in found.stages:
        copied = copies.get(stage.device, ())
        assert (len(copied) + stage.num_units) * 10 <= 45
        held = sorted({*copied, *range(stage.first_unit, stage.last_unit + 1)})
        assert held == list(range(held[0], held[-1] + 1))
    assert copies


def test_only_lingualinked_needs_pulp(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_pulp(name: str, *args: Any, **options: Any) -> Any:
        if name == "pulp":
            raise ImportError("No module named 'pulp'")
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_pulp)
    problem = published_case("latency_case", 8)
    rows = dict(compare(problem))
    assert isinstance(rows["lingualinked"], ShardnetError)
    assert "pip install" in str(rows["lingualinked"])
    assert isinstance(rows["auto"], Plan)
    assert list(rows) == list(METHODS)


def test_simple_rules() -> None:
    units = tuple(Unit(f"u{i}", 10, 0, 100) for i in range(9))
    devices = tuple(Device(name, room, (0.01,) * 9) for name, room in (("x", 60), ("a", 120), ("b", 180)))
    links = tuple(Link(p, q, 0.001, 1e6) for p in "xab" for q in "xab" if p != q)
    problem = Problem(units, devices, links, "a", pin_embedding=False)
    even = plan(problem, method="even")
    assert [(stage.device, stage.num_units) for stage in even.stages] == [("a", 3), ("x", 3), ("b", 3)]
    shares = plan(problem, method="memory")
    assert [(stage.device, stage.num_units) for stage in shares.stages] == [("a", 3), ("x", 2), ("b", 4)]
    assert plan(problem, method="solo").devices in (("a",), ("b",))
    pinned = dataclasses.replace(problem, pin_embedding=True, pin_head=True)
    assert plan(pinned, method="even").stages[-1].device == "a"
    assert plan(pinned, method="solo").devices == ("a",)


def test_plan_as_json_tells_everything() -> None:
    found = plan(published_case("latency_case", 8))
    told = json.loads(json.dumps(plan_to_dict(found)))
    for key in ("method", "objective", "stages", "lap_s", "bottleneck_s", "rate_per_s", "energy_j", "optimal", "gap"):
        assert key in told
    assert told["stages"][0] == {"device": "OrinNX-0", "first_unit": 0, "last_unit": 0}
    assert {row["device"] for row in told["left_out"]} == {"OrinNX-1", "AGXOrin-3"}
    assert all("instead of a lap of 52.53 ms" in row["why"] for row in told["left_out"])
    assert "RTX3090-4" in told["why"]
    assert told["solve_s"] > 0


def test_left_out_says_why() -> None:
    units = tuple(Unit(f"u{i}", 10, 0, 100) for i in range(3))
    devices = (
        Device("a", 100, (0.01,) * 3),
        Device("tiny", 5, (0.001,) * 3),
        Device("far", 100, (0.001,) * 3),
        Device("slow", 100, (1.0,) * 3),
    )
    links = (Link("far", "a", 1, 1e6), *(Link(x, y, 0.001, 1e6) for x, y in (("a", "slow"), ("slow", "a"))))
    links += (Link("a", "tiny", 0.001, 1e6), Link("tiny", "a", 0.001, 1e6))
    why = {left.device: left.why for left in plan(Problem(units, devices, links, "a")).left_out}
    assert "hold no unit" in why["tiny"]
    assert "no way to it" in why["far"]
    assert "instead of a lap of 30 ms" in why["slow"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("objective", ["latency", "throughput", "energy"])
def test_what_fits_nowhere_has_numbers_and_three_ways_out(method: str, objective: str) -> None:
    problem = published_case("latency_case", 8)
    units = tuple(dataclasses.replace(unit, weight_bytes=unit.weight_bytes * 9) for unit in problem.units)
    with pytest.raises(DoesNotFit) as caught:
        plan(dataclasses.replace(problem, units=units), objective, method)
    assert caught.value.exit_code == 3
    if method in ("auto", "exact"):
        assert "needs 243 GB" in str(caught.value)
        assert "offer 116 GB" in str(caught.value)
        for way in ("add a device", "fewer bits", "smaller model"):
            assert way in str(caught.value)


def test_a_shorter_context_is_offered_where_it_helps() -> None:
    units = tuple(Unit(f"u{i}", 10, 1, 100) for i in range(4))
    problem = Problem(units, (Device("a", 80, (0.01,) * 4),), (), "a", context_tokens=100)
    with pytest.raises(DoesNotFit, match="at most 10 tokens instead of 100"):
        plan(problem)


def test_the_source_must_hold_what_is_pinned_to_it() -> None:
    units = (Unit("embedding", 100, 0, 10), Unit("u1", 10, 0, 10))
    devices = (Device("a", 50, (0.01,) * 2), Device("b", 500, (0.01,) * 2))
    links = (Link("a", "b", 0.001, 1e6), Link("b", "a", 0.001, 1e6))
    with pytest.raises(DoesNotFit, match="its source a must hold 100 B and has 50 B"):
        plan(Problem(units, devices, links, "a"))


def test_a_lap_limit_that_nothing_keeps() -> None:
    problem = published_case("latency_case", 8)
    with pytest.raises(DoesNotFit, match=r"within 50 ms; the shortest found takes 52\.53 ms"):
        plan(problem, "energy", lap_limit_s=0.05)
    assert plan(problem, "energy", lap_limit_s=0.06).lap_s <= 0.06


def test_bad_requests() -> None:
    problem = published_case("latency_case", 8)
    for options in (
        {"objective": "speed"},
        {"method": "best"},
        {"in_flight": 0},
        {"lap_limit_s": -1.0},
        {"time_limit_s": float("nan")},
    ):
        with pytest.raises(BadRequest):
            plan(problem, **options)  # type: ignore[arg-type]
    powerless = tuple(dataclasses.replace(device, active_w=None) for device in problem.devices)
    with pytest.raises(BadConfiguration, match="active_w"):
        plan(dataclasses.replace(problem, devices=powerless), "energy")


def test_import_loads_neither_torch_nor_a_solver() -> None:
    code = (
        "import sys, shardnet.planner; from shardnet.planner import plan, Problem; "
        "print(sorted({'torch', 'transformers', 'pulp', 'scipy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"
