"""Who takes over the units of devices that are gone, while all else stays where it is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations

from shardnet.errors import DoesNotFit
from shardnet.plan import Plan, StagePlan, merged_stages
from shardnet.planner.costs import evaluate, fits, with_stages
from shardnet.planner.problem import Problem

_MOST = 64
"""Of the ways to place several lost stages, so many are looked at."""
_ROOMIEST, _SHARERS = 5, 4
"""A stage is cut among so many at most, of so many devices that have most room."""


def repairs(old: Plan, problem: Problem) -> list[tuple[StagePlan, ...]]:
    """Ways to give the lost units to others and leave all else where it is; only such as fit.

    Each lost stage, whose device `problem` does not have, goes to one device, or is cut between its neighbours in the
    ring.
    """
    lost = set(old.devices) - problem.index.keys()

    def parts_of(index: int, _: Sequence[StagePlan]) -> list[tuple[StagePlan, ...]]:
        whole = [(replace(old.stages[index], device=device.name),) for device in problem.devices]
        return whole + _cuts(old, index, lost)

    return _repairs(old, problem, parts_of)


def scattered_repairs(old: Plan, problem: Problem) -> list[tuple[StagePlan, ...]]:
    """The same where nobody has room for a whole stage: each is cut among the devices that have most room, in any
    order, of which each but the last takes as much as it can.
    """
    lost = [stage for stage in old.stages if stage.device not in problem.index]
    lost_bytes = sum(problem.memory_of_units(stage.first_unit, stage.last_unit) for stage in lost)
    if lost_bytes > sum(_room(problem, old.stages).values()):
        return []

    def parts_of(index: int, before: Sequence[StagePlan]) -> list[tuple[StagePlan, ...]]:
        room = _room(problem, [*before, *old.stages[index + 1 :]])
        roomiest = sorted(room, key=lambda device: -room[device])[:_ROOMIEST]
        orders = [order for number in range(1, _SHARERS + 1) for order in permutations(roomiest, number)]
        filled = [_filled(problem, old.stages[index], order, room) for order in orders]
        return [parts for parts in filled if parts]

    return _repairs(old, problem, parts_of)


def repaired(
    old: Plan,
    problem: Problem,
    may_be: Callable[[Sequence[StagePlan]], bool] = lambda _: True,
    *,
    may_scatter: bool = True,
) -> Plan:
    """The best of the `repairs`, for one session and the objective of `old`; where there is none, of those that scatter
    the lost units.

    Args:
        may_be: whether stages are to be considered.
        may_scatter: whether to look for the latter, which takes many times as long.

    Raises:
        DoesNotFit: the others cannot hold what is lost where it is.
    """
    for ways in (repairs, scattered_repairs) if may_scatter else (repairs,):
        costs = [(evaluate(problem, stages), stages) for stages in ways(old, problem) if may_be(stages)]
        if costs:
            _, stages = min(costs, key=lambda row: row[0].value(old.objective, 1))
            return with_stages(old, problem, stages)
    needed = sum(problem.unit_memory_bytes)
    free = sum(device.memory_bytes for device in problem.devices)
    raise DoesNotFit(
        f"the model needs {needed / 2**30:.2f} GiB, and the devices left have {free / 2**30:.2f} GiB, or they have no "
        "room for what was lost beside their own. Add a device, or load the model in a smaller dtype."
    )


def _repairs(
    old: Plan, problem: Problem, parts_of: Callable[[int, Sequence[StagePlan]], list[tuple[StagePlan, ...]]]
) -> list[tuple[StagePlan, ...]]:
    """
    Args:
        parts_of: ways to place the lost stage of an index, by what the stages before it have become.
    """
    found: list[tuple[StagePlan, ...]] = [()]
    for index, stage in enumerate(old.stages):
        if stage.device in problem.index:
            found = [(*stages, stage) for stages in found]
        else:
            found = [(*stages, *parts) for stages in found[:_MOST] for parts in parts_of(index, stages)]
    merged = [merged_stages(stages) for stages in found[: _MOST * 8]]
    return [stages for stages in merged if fits(problem, stages)]


def _room(problem: Problem, stages: Iterable[StagePlan]) -> dict[str, float]:
    """What each device has left beside these stages."""
    room = {device.name: float(device.memory_bytes) for device in problem.devices}
    for stage in stages:
        if stage.device in room:
            room[stage.device] -= problem.memory_of_units(stage.first_unit, stage.last_unit)
    return room


def _filled(
    problem: Problem, stage: StagePlan, order: Sequence[str], room: Mapping[str, float]
) -> tuple[StagePlan, ...]:
    """The units of a stage, as many as it has room for on each device in turn; empty where that is none, or not all."""
    parts: list[StagePlan] = []
    unit = stage.first_unit
    for device in order:
        first, left = unit, room[device]
        while unit <= stage.last_unit and problem.unit_memory_bytes[unit] <= left:
            left -= problem.unit_memory_bytes[unit]
            unit += 1
        if unit == first:
            return ()
        parts.append(StagePlan(device, first, unit - 1))
    return tuple(parts) if unit > stage.last_unit else ()


def _cuts(old: Plan, index: int, lost: Collection[str]) -> list[tuple[StagePlan, ...]]:
    """The stage's units shared between the device before it and the device after it."""
    stage = old.stages[index]
    before = old.stages[index - 1].device
    after = old.stages[(index + 1) % len(old.stages)].device
    if before in lost or after in lost or index == 0:
        return []
    return [
        (StagePlan(before, stage.first_unit, cut - 1), StagePlan(after, cut, stage.last_unit))
        for cut in range(stage.first_unit + 1, stage.last_unit + 1)
    ]
