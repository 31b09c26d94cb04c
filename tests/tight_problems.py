"""A hundred problems under tight memory, by number: devices that the best plans visit again and again.

Two kinds take turns. In the first, devices differ up to 100 times in speed and links 1,000 times; every third one is
of `planner_problems.random_problem`. Three of five ask for the least lap, one for the least energy (every other one
under a lap limit, which is in the record), one for the greatest rate.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner_problems import random_problem

from shardnet.errors import DoesNotFit
from shardnet.planner import Device, Link, Problem, Unit, evaluate, plan
from shardnet.planner.costs import broken_limit

RECORD = Path(__file__).parent / "data" / "tight_problems.json"
NUM_CASES = 100
OBJECTIVES = ("latency", "latency", "energy", "latency", "throughput")
SLACKS = (1.02, 1.05, 1.1, 1.2)
"""Memory offered over memory needed."""


@dataclass(frozen=True)
class Case:
    """One problem and what is asked."""

    number: int
    problem: Problem
    objective: str
    in_flight: int
    lap_limit_share: float | None
    """The lap limit over the shortest lap that the solver found; None for no limit."""


def tight_case(number: int) -> Case:
    """The case of that number, always the same."""
    rng = random.Random(977_003 * (number + 1))
    num_devices, num_units = rng.randint(6, 8), rng.randint(20, 34)
    slack = SLACKS[number % len(SLACKS)]
    made = wild_problem(rng, num_devices, num_units, slack)
    if number % 3 == 2:
        made = random_problem(rng, num_devices, num_units, slack)
    limited = rng.choice((1.02, 1.2, 2.0)) if number % 10 == 2 else None
    return Case(number, made, OBJECTIVES[number % 5], rng.choice((1, 2, 4, 8)), limited)


def wild_problem(rng: random.Random, num_devices: int, num_units: int, slack: float) -> Problem:
    """Units and devices of all sizes and speeds, some devices without memory, some links missing."""
    units = tuple(
        Unit(f"u{u}", 20 if u in (0, num_units - 1) and rng.random() < 0.5 else rng.uniform(30, 200), 0.5, bytes_out)
        for u, bytes_out in enumerate(rng.choices((1024, 4096), (1, 4), k=num_units))
    )
    need = sum(unit.weight_bytes + unit.kv_bytes_per_token * 100 for unit in units)
    shares = [rng.uniform(0.4, 1) if d == 0 or rng.random() < 0.9 else 0.0 for d in range(num_devices)]
    work = [rng.uniform(0.3, 2) for _ in units]
    noise = rng.choice((0.0, 0.4))
    devices = []
    for d, share in enumerate(shares):
        speed = 10 ** rng.uniform(-3, -1)
        seconds = tuple(speed * each * rng.uniform(1 - noise, 1 + noise) for each in work)
        memory = need * slack * share / sum(shares)
        devices.append(Device(f"d{d}", memory, seconds, active_w=rng.uniform(1, 50)))
    slowest = rng.choice((-2.2, -1.5))
    links = tuple(
        Link(a.name, b.name, 10 ** rng.uniform(-3.6, slowest), 10 ** rng.uniform(4.5, 7.4))
        for a in devices
        for b in devices
        if a is not b and (a.name, b.name) in _kept(num_devices, rng)
    )
    return Problem(units, tuple(devices), links, "d0", rng.random() < 0.6, rng.random() < 0.3, 8, 100)


def _kept(num_devices: int, rng: random.Random) -> set[tuple[str, str]]:
    """The ends of the links that there are: a ring of all devices, and most others."""
    ends = [(f"d{a}", f"d{b}") for a in range(num_devices) for b in range(num_devices)]
    kept = {(a, b) for a, b in ends if rng.random() < 0.93}
    return kept | {(f"d{d}", f"d{(d + 1) % num_devices}") for d in range(num_devices)}


def recorded() -> dict[int, dict[str, Any]]:
    """What a mixed-integer solver found, by number; see tests/bench/bench_planner.py."""
    return {row["number"]: row for row in json.loads(RECORD.read_text())["cases"]}


@dataclass(frozen=True)
class Against:
    """How a method does on a case, beside the record."""

    mine: float | None
    """Seconds of lap, joules, or seconds per token; None where nothing was found."""
    theirs: float | None
    proven: bool
    """The best, or that there is none."""
    worse: bool
    """By more than 1e-6 of the lap and the joules, and 1% of the rate."""


def against_record(row: dict[str, Any], method: str = "auto", time_limit_s: float | None = None) -> Against:
    """Plan a case of the record."""
    case, theirs = tight_case(row["number"]), None
    if "owners" in row:
        theirs = {"latency": row["lap_s"], "energy": row["energy_j"], "throughput": 1 / row["rate_per_s"]}[
            case.objective
        ]
    try:
        made = plan(case.problem, case.objective, method, case.in_flight, row["lap_limit_s"], time_limit_s)
    except DoesNotFit as error:
        return Against(None, theirs, "found in time" not in str(error), theirs is not None)
    cost = evaluate(case.problem, made.stages)
    assert broken_limit(case.problem, made.stages, cost) is None
    assert row["lap_limit_s"] is None or cost.lap_s <= row["lap_limit_s"] * (1 + 1e-9)
    values = {"latency": cost.lap_s, "energy": cost.energy_j, "throughput": 1 / cost.rate(case.in_flight)}
    mine, slack = values[case.objective], 1e-2 if case.objective == "throughput" else 1e-6
    assert mine is not None
    return Against(mine, theirs, made.optimal, theirs is not None and mine > theirs * (1 + slack))
