"""Problems for the planner's tests: random ones, the published ones, and brute force over all assignments."""

from __future__ import annotations

import json
import math
import random
from itertools import product
from pathlib import Path
from typing import Any

from shardnet.errors import BadConfiguration
from shardnet.plan import StagePlan, Stages
from shardnet.planner.costs import Cost, broken_limit, evaluate
from shardnet.planner.problem import Device, Link, Problem, Unit

PUBLISHED = json.loads((Path(__file__).parent / "data" / "edgeshard-llama2-7b.json").read_text())
GIB = 2**30
SLACKS = (1.05, 1.2, 1.5, 2.5, 6.0)
"""Memory offered over memory needed."""
TIGHT = (1.02, *SLACKS[:3])


def random_problem(rng: random.Random, num_devices: int, num_units: int, slack: float | None = None) -> Problem:
    """A problem with unequal devices and links: some alike, some links missing, some pins, some batteries."""
    slack = rng.choice(SLACKS) if slack is None else slack
    uniform, twins, sparse = rng.random() < 0.5, rng.random() < 0.4, rng.random() < 0.4
    units = tuple(_random_unit(rng, u, num_units, uniform) for u in range(num_units))
    need = sum(unit.weight_bytes + unit.kv_bytes_per_token * 1024 for unit in units)
    shares = [rng.uniform(0.3, 1) for _ in range(num_devices)]
    devices: list[Device] = []
    for d in range(num_devices):
        speed = rng.choice([1, 2, 5, 10]) * rng.uniform(0.8, 1.2)
        seconds = tuple(0.01 / speed * rng.uniform(0.8, 1.2) for _ in range(num_units))
        radio = rng.choice([0.0, 1e-7])
        battery = rng.uniform(20, 400) if rng.random() < 0.1 else None
        memory = need * slack * shares[d] / sum(shares)
        device = Device(f"d{d}", memory, seconds, None, rng.uniform(2, 30), radio, battery)
        if twins and d and rng.random() < 0.5:
            first = devices[0]
            device = Device(f"d{d}", first.memory_bytes, first.unit_seconds, None, first.active_w, radio)
        devices.append(device)
    links = tuple(
        Link(f"d{a}", f"d{b}", rng.choice([5e-4, 2e-3, 1e-2]), rng.choice([1.25e5, 1.25e6, 1e7, 1e8]))
        for a, b in product(range(num_devices), repeat=2)
        if a != b and (not sparse or abs(a - b) == 1 or rng.random() < 0.7)
    )
    pins = rng.random() < 0.7, rng.random() < 0.2
    return Problem(units, tuple(devices), links, "d0", *pins, rng.choice([8, 4096]), 1024, 1)


def _random_unit(rng: random.Random, u: int, num_units: int, uniform: bool) -> Unit:
    block = uniform and 0 < u < num_units - 1
    weight = 1e8 if block else rng.uniform(0.3, 1.5) * 1e8
    kv = 2048 if block else rng.choice([0, 1000, 1024])
    return Unit(f"u{u}", weight, kv, 8192 if uniform else rng.choice([4096, 16384, 100_000]))


def published_case(case: str, return_bytes: float) -> Problem:
    """The instance of the data file on which EdgeShard's programmes give the published values."""
    data = PUBLISHED[case]
    names = [f"{kind}-{i}" for i, kind in enumerate(data["devices"])]
    devices = []
    for i, kind in enumerate(data["devices"]):
        seconds = [ms / 1e3 for ms in PUBLISHED["unit_ms"][kind]]
        if case == "throughput_case" and i == data["source"]:
            seconds[0] = PUBLISHED["unit_ms"]["OrinNX"][0] / 1e3
        devices.append(Device(names[i], data["memory_gib"][i] * GIB, tuple(seconds), active_w=10.0))
    slow = case == "throughput_case"
    links = [
        Link(names[a], names[b], PUBLISHED["hop_ms"] / 1e3, (10 if slow or {a, b} == {0, 4} else 950) * 1e6 / 8)
        for a, b in product(range(len(names)), repeat=2)
        if a != b
    ]
    return Problem(published_units(), tuple(devices), tuple(links), names[data["source"]], return_bytes=return_bytes)


def published_units() -> tuple[Unit, ...]:
    """The embedding, 32 blocks and the head of Llama-2 7B in fp32."""
    sizes = PUBLISHED["unit_memory_gib"]
    names = ["embedding", *(f"block {i}" for i in range(32)), "head"]
    output = PUBLISHED["activation_bits"] / 8
    return tuple(Unit(name, sizes[name.split()[0]] * GIB, 0, output) for name in names)


def edgeshard_testbed(cloud_mbit: float, source: str = "AGXOrin-0", memory_share: float = 1.0) -> Problem:
    """EdgeShard's testbed: 12 AGX Orin, 2 Orin NX, an RTX 3090 behind a slow way, Llama-2 7B."""
    kinds = ["AGXOrin"] * 12 + ["OrinNX"] * 2 + ["RTX3090"]
    memory = {"AGXOrin": 29 * GIB, "OrinNX": 14 * GIB, "RTX3090": 22 * GIB}
    watts = {"AGXOrin": 40.0, "OrinNX": 20.0, "RTX3090": 300.0}
    names = [f"{kind}-{i}" for i, kind in enumerate(kinds)]
    times = {kind: tuple(ms / 1e3 for ms in PUBLISHED["unit_ms"][kind]) for kind in memory}
    devices = tuple(
        Device(name, memory[kind] * memory_share, times[kind], active_w=watts[kind])
        for name, kind in zip(names, kinds, strict=True)
    )
    links = tuple(
        Link(names[a], names[b], PUBLISHED["hop_ms"] / 1e3, (cloud_mbit if 14 in (a, b) else 1000) * 1e6 / 8)
        for a, b in product(range(15), repeat=2)
        if a != b
    )
    return Problem(published_units(), devices, links, source)


def every_plan(problem: Problem) -> list[tuple[Stages, Cost]]:
    """All assignments of units to devices that keep every limit, revisits included."""
    plans = []
    for owners in product(range(problem.num_devices), repeat=problem.num_units):
        stages = joined(problem, owners)
        if problem.pin_embedding and stages[0].device != problem.source:
            continue
        try:
            cost = evaluate(problem, stages)
        except BadConfiguration:  # no way between two of them
            continue
        if broken_limit(problem, stages, cost) is None:
            plans.append((stages, cost))
    return plans


def joined(problem: Problem, owners: tuple[int, ...]) -> Stages:
    """Stages from the device of each unit."""
    stages: list[StagePlan] = []
    for u, d in enumerate(owners):
        name = problem.devices[d].name
        if stages and stages[-1].device == name:
            stages[-1] = StagePlan(name, stages[-1].first_unit, u)
        else:
            stages.append(StagePlan(name, u, u))
    return tuple(stages)


def best_of(
    plans: list[tuple[Stages, Cost]], objective: str, in_flight: int = 1, lap_limit_s: float = math.inf
) -> tuple[float, float, int] | None:
    """Value, lap and number of devices of the best plan: brute force with the tie rules of docs/planning.md."""
    costs = [cost for _, cost in plans if cost.lap_s <= lap_limit_s * (1 + 1e-9)]
    if not costs:
        return None
    value: Any = {
        "latency": lambda cost: cost.lap_s,
        "throughput": lambda cost: 1 / cost.rate(in_flight),
        "energy": lambda cost: cost.energy_j,
    }[objective]
    least = min(value(cost) for cost in costs)
    near = least / 0.99 if objective == "throughput" else least
    tied = [cost for cost in costs if value(cost) <= near * (1 + 1e-9)]
    lap_s = min(cost.lap_s for cost in tied)
    return least, lap_s, min(len(cost.device_busy_s) for cost in tied if cost.lap_s <= lap_s * (1 + 1e-9))


def mixed_cluster(num_devices: int, num_blocks: int, seed: int, alike: bool) -> Problem:
    """Phones, laptops, boards and a few accelerators, fully meshed.

    Args:
        alike: devices of one kind are identical; else no two devices and no two links are.
    """
    rng = random.Random(seed)
    kinds = (
        ("phone", 6e9, 0.05, 4),
        ("fast-phone", 1.2e10, 0.03, 6),
        ("laptop", 1.6e10, 0.02, 30),
        ("board", 8e9, 0.06, 5),
        ("agx", 3e10, 0.012, 40),
        ("gpu", 2.4e10, 0.002, 300),
    )
    units = [Unit("embedding", 5e8, 0, 16384), *(Unit(f"block {i}", 8e8, 4096, 16384) for i in range(num_blocks))]
    devices = []
    for i in range(num_devices):
        kind, memory, seconds, watts = rng.choices(kinds, (30, 20, 20, 20, 8, 2))[0]
        spread = 0.0 if alike else 1.0
        seconds *= 1 + spread * rng.uniform(-0.2, 0.25)
        blocks = [seconds * (1 + spread * rng.uniform(-0.03, 0.03)) for _ in range(num_blocks)]
        room = memory * (0.8 + spread * rng.uniform(-0.3, 0.2))
        devices.append(Device(f"{kind}-{i}", room, (seconds * 0.1, *blocks, seconds * 0.8), active_w=watts))
    links = []
    for a, b in product(devices, repeat=2):
        if a is b:
            continue
        wide = (0.02, 2e6) if "gpu" in a.name or "gpu" in b.name else (0.003, 2e7)
        if not alike:
            wide = rng.choice([0.001, 0.003, 0.01, 0.03]), rng.choice([1e6, 5e6, 2e7, 1e8]) * rng.uniform(0.5, 1)
        links.append(Link(a.name, b.name, *wide))
    head = Unit("head", 5e8, 0, 16384)
    return Problem((*units, head), tuple(devices), tuple(links), devices[0].name, context_tokens=2048)


def local_devices() -> Problem:
    """SmolLM2-135M on three processes of one machine."""
    units = [Unit("embedding", 5.7e7, 0, 1152), *(Unit(f"block {i}", 7e6, 768, 1152) for i in range(30))]
    seconds = (0.0002, *(0.0009 for _ in range(30)), 0.004)
    devices = tuple(Device(f"local-{i}", 1.5e8, seconds, active_w=10) for i in range(3))
    links = tuple(Link(a.name, b.name, 3e-4, 1e9) for a, b in product(devices, repeat=2) if a is not b)
    return Problem((*units, Unit("head", 5.7e7, 0, 8)), devices, links, "local-0", context_tokens=2048)


def small_problems(seed: int, num: int) -> list[Problem]:
    """Tight ones that brute force can go through."""
    rng = random.Random(seed)
    shapes = [rng.choice([(2, 8), (3, 6), (3, 7), (4, 5)]) for _ in range(num)]
    return [random_problem(rng, devices, units, rng.choice(TIGHT)) for devices, units in shapes]
