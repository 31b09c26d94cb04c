"""The rules that everyone uses: the best single device, even shares, shares by free memory. Pure."""

from __future__ import annotations

from collections.abc import Callable

from shardnet.errors import DoesNotFit
from shardnet.plan import StagePlan, Stages, merged_stages, stages_from_counts, stages_of_owners
from shardnet.planner.costs import ROUNDING, Cost, broken_limit, evaluate, gigabytes
from shardnet.planner.problem import Problem


def solo(problem: Problem, value: Callable[[Cost], float]) -> Stages:
    """The single device that holds everything at the least `value` of its cost.

    Raises:
        DoesNotFit: no device holds everything, or only ones that the source's pins exclude do.
    """
    plans: list[tuple[float, float, Stages]] = []
    for device in problem.devices:
        stages = (StagePlan(device.name, 0, problem.num_units - 1),)
        cost = evaluate(problem, stages)
        if broken_limit(problem, stages, cost) is None:
            plans.append((value(cost), cost.lap_s, stages))
    if not plans:
        allowed = "the source" if problem.pin_embedding or problem.pin_head else "any one device"
        need = gigabytes(sum(problem.unit_memory_bytes))
        raise DoesNotFit(f"The model needs {need} and does not fit {allowed}. Use more devices, or another method.")
    return min(plans, key=lambda plan: plan[:2])[2]


def even(problem: Problem) -> Stages:
    """As many units on every device, the source first, the others in the order of the problem."""
    names = _source_first(problem)[: problem.num_units]
    share, more = divmod(problem.num_units, len(names))
    counts = [share + (i < more) for i in range(len(names))]
    return _with_head_at_source(problem, stages_from_counts(names, counts))


def memory(problem: Problem) -> Stages:
    """Units in proportion to free memory, the source first (as exo and llama.cpp split).

    Raises:
        DoesNotFit: a device's share and what is left over before it do not fit.
    """
    offered = sum(device.memory_bytes for device in problem.devices)
    need = sum(problem.unit_memory_bytes)
    names = _source_first(problem)
    counts, unit, placed, quota = [0] * len(names), 0, 0.0, 0.0
    for i, name in enumerate(names):
        free = problem.devices[problem.index[name]].memory_bytes
        quota += need * free / offered if offered else 0.0
        while unit < problem.num_units:
            size = problem.unit_memory_bytes[unit]
            pinned = unit == 0 and problem.pin_embedding
            if size > free or (placed + size / 2 > quota and not pinned):
                break
            free, placed = free - size, placed + size
            counts[i] += 1
            unit += 1
    if unit < problem.num_units:
        raise DoesNotFit(
            f"Shares by free memory leave {problem.num_units - unit} of {problem.num_units} units without a device "
            f"({gigabytes(need)} on {gigabytes(offered)}). Use the method exact, or add a device."
        )
    return _with_head_at_source(problem, stages_from_counts(names, counts))


def packed(problem: Problem) -> Stages:
    """Units from the largest down, each on the device where it leaves least room: a plan that fits, not a quick one.

    Raises:
        DoesNotFit: packing in this order leaves a unit without a device.
    """
    free = [device.memory_bytes * (1 + ROUNDING) for device in problem.devices]
    source = problem.index[problem.source]
    owners: dict[int, int] = {}
    pinned = _pinned(problem)
    sizes = problem.unit_memory_bytes
    for u in sorted(range(problem.num_units), key=lambda u: (u not in pinned, -sizes[u])):
        fitting = [source] if u in pinned else [d for d in range(len(free)) if free[d] >= sizes[u]]
        if not fitting or free[fitting[0]] < sizes[u]:
            raise DoesNotFit(f"Packing leaves unit {problem.units[u].name} ({gigabytes(sizes[u])}) without a device.")
        owners[u] = min(fitting, key=lambda d: free[d])
        free[owners[u]] -= sizes[u]
    return stages_of_owners(problem.devices[owners[unit]].name for unit in range(problem.num_units))


def _pinned(problem: Problem) -> set[int]:
    """The units that stay on the source."""
    pins = ((0, problem.pin_embedding), (problem.num_units - 1, problem.pin_head))
    return {u for u, pin in pins if pin}


def _source_first(problem: Problem) -> list[str]:
    return [problem.source, *(device.name for device in problem.devices if device.name != problem.source)]


def _with_head_at_source(problem: Problem, stages: Stages) -> Stages:
    """Move the head to the source where it is pinned."""
    if not problem.pin_head or stages[-1].device == problem.source:
        return stages
    last = stages[-1]
    before = [StagePlan(last.device, last.first_unit, last.last_unit - 1)] if last.num_units > 1 else []
    return merged_stages((*stages[:-1], *before, StagePlan(problem.source, last.last_unit, last.last_unit)))
