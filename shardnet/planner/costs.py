"""What a plan costs: lap, bottleneck, rate, energy, memory. Pure.

The definitions are those of docs/planning.md: units keep their order, a device may be visited again, a hop takes the
fastest route for its payload (see `links`), and the way back goes from the last unit's device to the first unit's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from shardnet.errors import BadConfiguration
from shardnet.foreign.quoting import quoted
from shardnet.plan import Link, Plan, StagePlan
from shardnet.planner.problem import Problem

ROUNDING = 1e-9
"""Relative slack of every limit: sums of floats in another order differ in their last digits."""


@dataclass(frozen=True)
class Hop:
    """One payload from one stage to the next, or from the last stage back to the first."""

    source: str
    target: str
    num_bytes: float
    seconds: float
    links: tuple[Link, ...]
    """What it crosses, in order; more than one means relays."""


@dataclass(frozen=True)
class Cost:
    """What one lap of one session costs."""

    lap_s: float
    bottleneck_s: float
    """Busy seconds of the busiest device or link in a lap."""
    bottleneck: str
    """The name of that device, or "a to b" for a link."""
    energy_j: float | None
    """Joules per token; None where a device in use does not say its active_w."""
    device_busy_s: dict[str, float]
    link_busy_s: dict[tuple[str, str], float]
    device_memory_bytes: dict[str, float]
    """Weights and KV caches by device."""
    device_energy_j: dict[str, float | None]
    """Joules per token of each device that computes or relays."""
    hops: tuple[Hop, ...]

    def rate(self, in_flight: int = 1) -> float:
        """Tokens per second with `in_flight` sessions under way."""
        slowest_s = max(self.bottleneck_s, self.lap_s / in_flight)
        return 1 / slowest_s if slowest_s > 0 else math.inf

    def value(self, objective: str, in_flight: int) -> float:
        """What the objective wants small: seconds per token of one session ("latency") or of all, or joules per token.

        Joules are infinite where they are not known: they are never compared with seconds.
        """
        if objective == "energy":
            return math.inf if self.energy_j is None else self.energy_j
        return self.lap_s if objective == "latency" else max(self.bottleneck_s, self.lap_s / in_flight)


def gain(now: float, then: float) -> float:
    """By which share of itself a value would become less. From an unknown value to a known one is all of it."""
    if not 0 < now < math.inf:
        return 1.0 if then < now else 0.0
    return 1 - then / now


def evaluate(problem: Problem, stages: Sequence[StagePlan]) -> Cost:
    """Predict what the plan made of `stages` costs.

    Does not judge whether it fits: see `broken_limit`.

    Raises:
        BadConfiguration: the stages are no plan for this problem, or there is no way between two of them.
    """
    check_stages(problem, stages)
    busy: dict[str, float] = {}
    memory: dict[str, float] = {}
    for stage in stages:
        device = problem.devices[problem.index[stage.device]]
        span = slice(stage.first_unit, stage.last_unit + 1)
        busy[device.name] = busy.get(device.name, 0.0) + sum(device.unit_seconds[span])
        memory[device.name] = memory.get(device.name, 0.0) + sum(problem.unit_memory_bytes[span])
    hops = tuple(_hops(problem, stages))
    crossed: dict[tuple[str, str], float] = {}
    for hop in hops:
        for link in hop.links:
            key = (link.source, link.target)
            crossed[key] = crossed.get(key, 0.0) + link.seconds(hop.num_bytes)
    energy = _energy(problem, busy, hops)
    joules = list(energy.values())
    names = {**busy, **{f"{source} to {target}": seconds for (source, target), seconds in crossed.items()}}
    slowest = max(names, key=lambda name: names[name])
    return Cost(
        lap_s=sum(busy.values()) + sum(hop.seconds for hop in hops),
        bottleneck_s=names[slowest],
        bottleneck=slowest,
        energy_j=None if None in joules else sum(value for value in joules if value is not None),
        device_busy_s=busy,
        link_busy_s=crossed,
        device_memory_bytes=memory,
        device_energy_j=energy,
        hops=hops,
    )


def with_stages(plan: Plan, problem: Problem, stages: Sequence[StagePlan], in_flight: int = 1) -> Plan:
    """A plan of other stages, with what these cost; nothing is proven of it."""
    return replace(with_costs(replace(plan, stages=tuple(stages)), problem, in_flight), optimal=False, gap=None)


def with_costs(plan: Plan, problem: Problem, in_flight: int = 1) -> Plan:
    """A plan with what its stages cost where the problem is another one than that which it was made for."""
    cost = evaluate(problem, plan.stages)
    return replace(
        plan,
        lap_s=cost.lap_s,
        bottleneck_s=cost.bottleneck_s,
        rate_per_s=cost.rate(in_flight),
        simulated_rate_per_s=None,
        energy_j=cost.energy_j,
    )


def check_stages(problem: Problem, stages: Sequence[StagePlan]) -> None:
    """Refuse stages that do not place every unit once, in order, on devices of the problem."""
    expected = 0
    for stage in stages:
        if stage.device not in problem.index:
            raise BadConfiguration(f"The plan uses device {quoted(stage.device)}, which the problem does not have.")
        if stage.first_unit != expected or stage.last_unit < stage.first_unit:
            raise BadConfiguration(
                f"A stage holds units {quoted(stage.first_unit)} to {quoted(stage.last_unit)}, "
                f"but unit {expected} comes next."
            )
        expected = stage.last_unit + 1
    if expected != problem.num_units:
        raise BadConfiguration(f"The plan places {expected} units, but the problem has {problem.num_units}.")


def broken_limit(problem: Problem, stages: Sequence[StagePlan], cost: Cost) -> str | None:
    """The first limit that the plan breaks, as a clause; None where it keeps all of them."""
    for name, used in cost.device_memory_bytes.items():
        free = problem.devices[problem.index[name]].memory_bytes
        if used > free * (1 + ROUNDING):
            return f"{name} would need {gigabytes(used)} and offers {gigabytes(free)}"
    if problem.pin_embedding and stages[0].device != problem.source:
        return f"the embedding must stay on {problem.source}"
    if problem.pin_head and stages[-1].device != problem.source:
        return f"the head must stay on {problem.source}"
    tokens = problem.context_tokens * problem.sessions
    for name, joules in cost.device_energy_j.items():
        battery_j = problem.devices[problem.index[name]].battery_j
        if battery_j is not None and joules is not None and joules * tokens > battery_j * (1 + ROUNDING):
            return f"{name} would spend {joules * tokens:.3g} J on {tokens} tokens and has {battery_j:.3g} J"
    return None


def fits(problem: Problem, stages: Sequence[StagePlan]) -> bool:
    """Whether devices can hold the stages, and there is a way from each to the next."""
    try:
        return broken_limit(problem, stages, evaluate(problem, stages)) is None
    except BadConfiguration:  # there is no way between two of them
        return False


def gigabytes(num_bytes: float) -> str:
    """Bytes for a person, with three digits."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.3g} B"


def _hops(problem: Problem, stages: Sequence[StagePlan]) -> Iterable[Hop]:
    for here, there in pairwise(stages):
        if here.device != there.device:
            yield _hop(problem, here.device, there.device, problem.units[here.last_unit].output_bytes)
    if stages[-1].device != stages[0].device:
        yield _hop(problem, stages[-1].device, stages[0].device, problem.return_bytes)


def _hop(problem: Problem, source: str, target: str, num_bytes: float) -> Hop:
    links = problem.routes.links(source, target, num_bytes)
    if links is None:
        raise BadConfiguration(f"There is no way from {source!r} to {target!r}: add a link, or leave one of them out.")
    return Hop(source, target, num_bytes, sum(link.seconds(num_bytes) for link in links), links)


def _energy(problem: Problem, busy: dict[str, float], hops: Sequence[Hop]) -> dict[str, float | None]:
    """Joules per token: power x busy time, and for each byte sent or received what the radio takes."""
    energy: dict[str, float | None] = {}
    for name, seconds in busy.items():
        active_w = problem.devices[problem.index[name]].active_w
        energy[name] = None if active_w is None else active_w * seconds
    for hop in hops:
        for link in hop.links:
            for name in (link.source, link.target):
                radio_j = problem.devices[problem.index[name]].radio_j_per_byte * hop.num_bytes
                so_far = energy.get(name, 0.0)
                energy[name] = None if so_far is None else so_far + radio_j
    return energy
