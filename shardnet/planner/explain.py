"""Why a plan looks as it does, and what would help where nothing fits, in words. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shardnet.errors import BadConfiguration, DoesNotFit
from shardnet.foreign.quoting import counted
from shardnet.plan import LeftOut, StagePlan
from shardnet.planner.costs import ROUNDING, Cost, broken_limit, evaluate, gigabytes
from shardnet.planner.problem import Problem

MOST_TRIED = 32
"""Devices left out for which plans with them are tried; of larger clusters only the reason in general is told."""


def limit_of(cost: Cost, objective: str, in_flight: int) -> str:
    """What limits the plan, in a sentence or two."""
    if objective == "throughput" and cost.bottleneck_s >= cost.lap_s / in_flight:
        kind = "device" if cost.bottleneck in cost.device_busy_s else "link"
        return f"The busiest {kind}, {cost.bottleneck}, works {_ms(cost.bottleneck_s)} in each lap and sets the rate."
    if objective == "energy" and cost.energy_j:
        joules = {name: value for name, value in cost.device_energy_j.items() if value}
        most = max(joules, key=lambda name: joules[name])
        return f"{most} spends {joules[most] / cost.energy_j:.0%} of the {cost.energy_j:.3g} J of a token."
    tail = f"; {in_flight} in flight do not fill the pipeline." if objective == "throughput" else "."
    return _parts_of_lap(cost) + tail


def _parts_of_lap(cost: Cost) -> str:
    lap = cost.lap_s or 1.0
    busiest = max(cost.device_busy_s, key=lambda name: cost.device_busy_s[name])
    compute_s, hops_s = sum(cost.device_busy_s.values()), sum(hop.seconds for hop in cost.hops)
    parts = f"Of a lap of {_ms(cost.lap_s)}, compute is {compute_s / lap:.0%} (most on {busiest})"
    if cost.hops:
        slowest = max(cost.hops, key=lambda hop: hop.seconds)
        parts += f" and hops are {hops_s / lap:.0%} (the slowest {slowest.source} to {slowest.target}"
        parts += f", {_ms(slowest.seconds)})"
    return parts


def left_out(problem: Problem, stages: Sequence[StagePlan], told: Callable[[Cost], str]) -> tuple[LeftOut, ...]:
    """The devices that the plan does not use, each with the reason.

    Args:
        told: what of a cost is compared, in words.
    """
    used = {stage.device for stage in stages}
    spare = [device.name for device in problem.devices if device.name not in used]
    near = _reachable(problem, used, forward=True), _reachable(problem, used, forward=False)
    relays = {link.target for hop in evaluate(problem, stages).hops for link in hop.links[:-1]}
    return tuple(
        LeftOut(
            name, _far(name, *near) or _reason(problem, stages, name, told, len(spare) <= MOST_TRIED, name in relays)
        )
        for name in spare
    )


def _reachable(problem: Problem, used: set[str], forward: bool) -> set[str]:
    """The devices to which there is a way from those in use, or from which there is one to them."""
    ways: dict[str, list[str]] = {}
    for link in problem.links:
        here, there = (link.source, link.target) if forward else (link.target, link.source)
        ways.setdefault(here, []).append(there)
    reached, waiting = set(used), list(used)
    while waiting:
        for name in ways.get(waiting.pop(), ()):
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    return reached


def _far(name: str, onward: set[str], back: set[str]) -> str:
    if name not in onward:
        return "there is no way to it from the devices in use"
    return "" if name in back else "there is no way back from it to the devices in use"


def _reason(
    problem: Problem, stages: Sequence[StagePlan], name: str, told: Callable[[Cost], str], tried: bool, relays: bool
) -> str:
    device = problem.devices[problem.index[name]]
    smallest = min(problem.unit_memory_bytes)
    if device.memory_bytes * (1 + ROUNDING) < smallest:
        return f"its {gigabytes(device.memory_bytes)} hold no unit: the smallest needs {gigabytes(smallest)}"
    relay = "it only relays; " if relays else ""
    if not tried:
        return relay + "no better plan with it was found"
    trials = [cost for plan in _with_device(stages, name) if (cost := _kept(problem, plan)) is not None]
    if not trials:
        return relay + "no plan that gives it a unit at the end of a stage fits"
    now, best = evaluate(problem, stages), min(trials, key=lambda cost: cost.lap_s)
    if told(best) != told(now):
        return f"{relay}with one unit moved to it, the plan would have {told(best)} instead of {told(now)}"
    return f"{relay}with one unit moved to it, the plan would have {told(best)} as now, and a lap of {_ms(best.lap_s)}"


def _with_device(stages: Sequence[StagePlan], name: str) -> list[list[StagePlan]]:
    """The plans in which the device takes the first or the last unit of a stage."""
    plans = []
    for s, stage in enumerate(stages):
        first, last = stage.first_unit, stage.last_unit
        before, after = list(stages[:s]), list(stages[s + 1 :])
        if first == last:
            plans.append([*before, StagePlan(name, first, last), *after])
            continue
        front = [StagePlan(name, first, first), StagePlan(stage.device, first + 1, last)]
        back = [StagePlan(stage.device, first, last - 1), StagePlan(name, last, last)]
        plans += [[*before, *front, *after], [*before, *back, *after]]
    return plans


def _kept(problem: Problem, stages: Sequence[StagePlan]) -> Cost | None:
    try:
        cost = evaluate(problem, stages)
    except BadConfiguration:  # no way to it from there
        return None
    return None if broken_limit(problem, stages, cost) else cost


@dataclass(frozen=True)
class _Shortage:
    """Units that must share some room which is too small for them."""

    said: str
    units: tuple[int, ...]
    have: float
    device: str

    def bytes(self, problem: Problem) -> tuple[float, float]:
        """Weights, and KV caches."""
        weights = sum(problem.units[u].weight_bytes for u in self.units)
        return weights, sum(problem.unit_memory_bytes[u] for u in self.units) - weights


def does_not_fit(problem: Problem) -> DoesNotFit:
    """What is needed, what there is, and three ways out."""
    need, have = sum(problem.unit_memory_bytes), sum(device.memory_bytes for device in problem.devices)
    count = len(problem.devices)
    offer = f"{count} devices offer {gigabytes(have)}" if count > 1 else f"the only device offers {gigabytes(have)}"
    head = f"The model needs {gigabytes(need)} with its KV cache and {offer}"
    shortages = _shortages(problem, need, have)
    clauses = [shortage.said for shortage in shortages if shortage.said]
    said = "; ".join([head, *clauses])
    devices = list(dict.fromkeys(shortage.device for shortage in shortages))
    ways = f"add {' and '.join(devices)}; {_fewer_bits(problem, shortages)}; or {_shorter(problem, shortages)}"
    return DoesNotFit(f"{said}. Three ways out: {ways}.")


def _shortages(problem: Problem, need: float, have: float) -> list[_Shortage]:
    every, slack = tuple(range(problem.num_units)), 1 + ROUNDING
    found = []
    biggest = max(every, key=lambda u: problem.unit_memory_bytes[u])
    size = problem.unit_memory_bytes[biggest]
    if need > have * slack:
        found.append(_Shortage("", every, have, f"a device with {gigabytes(need - have + size)}"))
    source = problem.devices[problem.index[problem.source]]
    pins = ((0, problem.pin_embedding), (problem.num_units - 1, problem.pin_head))
    pinned = tuple({u for u, pin in pins if pin})
    held = sum(problem.unit_memory_bytes[u] for u in pinned)
    if held > source.memory_bytes * slack:
        said = f"its source {source.name} must hold {gigabytes(held)} and has {gigabytes(source.memory_bytes)}"
        found.append(_Shortage(said, pinned, source.memory_bytes, f"a source with {gigabytes(held)}"))
    largest = max(device.memory_bytes for device in problem.devices)
    if size > largest * slack:
        said = f"unit {problem.units[biggest].name} alone needs {gigabytes(size)} and the largest device has "
        found.append(_Shortage(said + gigabytes(largest), (biggest,), largest, f"a device with {gigabytes(size)}"))
    if not found:
        said = "no plan in pieces that devices, links and batteries can take keeps every limit"
        found.append(_Shortage(said, every, min(have, need) * 0.9, f"a device with {gigabytes(need)}"))
    return found


def _fewer_bits(problem: Problem, shortages: Sequence[_Shortage]) -> str:
    share = 1.0
    for shortage in shortages:
        weights, kv = shortage.bytes(problem)
        share = min(share, (shortage.have - kv) / weights if weights else 0.0)
    if share <= 0:
        return "use weights of fewer bits (not enough alone: the KV cache is too large as well)"
    return f"use weights of fewer bits, at most {share:.0%} of their size now"


def _shorter(problem: Problem, shortages: Sequence[_Shortage]) -> str:
    tokens = float(problem.context_tokens)
    total_kv = sum(problem.unit_memory_bytes) - sum(unit.weight_bytes for unit in problem.units)
    if total_kv <= 0:
        return "place a smaller model (there is no KV cache that a shorter context would shrink)"
    for shortage in shortages:
        weights, kv = shortage.bytes(problem)
        tokens = min(tokens, (shortage.have - weights) / kv * problem.context_tokens if kv else -1.0)
    if tokens < 1:
        kept = f"KV for {counted(problem.context_tokens, 'tokens')} takes {gigabytes(total_kv)}"
        return f"keep a shorter context (not enough alone: {kept})"
    return f"keep a context of at most {counted(int(tokens), 'tokens')} instead of {problem.context_tokens}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"
