"""Plans that are (nearly) as good as the best one and move fewer units from where they are. Pure.

A plan made anew knows nothing of the running one. On a cluster with twelve alike devices it may give each the shard of
another, and after a loss it shifts every boundary to gain a few percent. Both would load the whole model again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from typing import NamedTuple

from shardnet.plan import Plan, StagePlan, merged_stages, owners_of, stages_from_counts
from shardnet.planner.costs import broken_limit, evaluate, fits, with_stages
from shardnet.planner.problem import Problem

ROUNDING = 1e-9


def keep_places(old: Plan, new: Plan, problem: Problem) -> Plan:
    """Swap alike devices in `new` so that they keep the units that they hold in `old`.

    Returns `new` itself where that would cost anything.
    """
    swap = _swap(owners_of(old.stages), new, _likenesses(problem))
    stages = tuple(replace(stage, device=swap[stage.device]) for stage in new.stages)
    before, after = evaluate(problem, new.stages), evaluate(problem, stages)
    same = after.lap_s <= before.lap_s * (1 + ROUNDING) and after.bottleneck_s <= before.bottleneck_s * (1 + ROUNDING)
    if not same or broken_limit(problem, stages, after) is not None:
        return new
    return replace(new, stages=stages)


def _swap(owners: list[str], new: Plan, alike: dict[str, object]) -> dict[str, str]:
    """Whose place each device of the plan takes: of those like it, that which holds most of its units already."""
    shared: list[tuple[int, str, str]] = []
    for wanted in new.devices:
        held = Counter(owner for owner, place in zip(owners, owners_of(new.stages), strict=True) if place == wanted)
        shared += [(held[given], wanted, given) for given in alike if alike[given] == alike[wanted]]
    swap: dict[str, str] = {}
    for _, wanted, given in sorted(shared, key=lambda row: (-row[0], row[1] != row[2])):
        if wanted not in swap and given not in swap.values():
            swap[wanted] = given
    return swap


def with_fewer_moves(
    old: Plan,
    new: Plan,
    problem: Problem,
    in_flight: int,
    tolerance: float,
    may_be: Callable[[Sequence[StagePlan]], bool] = lambda _: True,
) -> Plan | None:
    """A plan that is nearly as good as `new` and moves fewer units from where they are in `old`; else `new` itself.
    Where that may not be, the best that is found; None where there is none.

    From the old borders one unit after the other flows from a stage to another one, all stages between them shifted by
    one, always where most is gained for what moves, until it is worse than `new` by `tolerance` at most. A device
    that only `new` uses may come in anywhere. In large clusters, where that takes too long, `new` is returned.
    """

    def value_of(stages: Sequence[StagePlan]) -> float:
        return evaluate(problem, stages).value(new.objective, in_flight)

    goal = value_of(new.stages) * (1 + tolerance)
    may_be_new = may_be(new.stages)
    runs = [_Run(stage.device, stage.num_units) for stage in merged_stages(old.stages)]
    if old.num_units * (len(runs) + 1) ** 3 > _MOST_TRIES:
        return new if may_be_new else None
    names = {run.device for run in runs}
    newcomers = [device for device in new.devices if device not in names]
    begins = [runs, *([*runs[:at], _Run(each, 0), *runs[at:]] for each in newcomers for at in range(len(runs) + 1))]
    flown = [_flown(begin, goal, problem, value_of, may_be) for begin in begins]
    found = [(max(value_of(stages), goal), num_moved(old.stages, stages), stages) for stages in flown]
    if may_be_new:
        found.insert(0, (goal, num_moved(old.stages, new.stages), new.stages))
    _, _, fewest = min(found, key=lambda each: each[:2])
    if fewest == merged_stages(old.stages):
        return new if may_be_new else None
    if fewest is new.stages:
        return new
    return with_stages(new, problem, fewest, in_flight)


_MOST_TRIES = 20_000
"""Plans that are looked at, about, for one place where a newcomer may come in."""


class _Run(NamedTuple):
    """So many units of a device, which follow each other."""

    device: str
    num_units: int


def _flown(
    runs: list[_Run],
    goal: float,
    problem: Problem,
    value_of: Callable[[Sequence[StagePlan]], float],
    may_be: Callable[[Sequence[StagePlan]], bool],
) -> tuple[StagePlan, ...]:
    """What units flow to until the goal is reached, or nothing is gained any more."""
    stages = _stages_of(runs)
    value = value_of(stages) if fits(problem, stages) else math.inf
    while value > goal:
        tried: list[tuple[float, float, list[_Run]]] = []
        for source, target in permutations(range(len(runs)), 2):
            for num_units in {1, runs[source].num_units} if runs[source].num_units else ():
                flown = list(runs)
                flown[source] = runs[source]._replace(num_units=runs[source].num_units - num_units)
                flown[target] = runs[target]._replace(num_units=runs[target].num_units + num_units)
                stages = _stages_of(flown)
                if not (fits(problem, stages) and may_be(stages)):
                    continue
                if (reached := value_of(stages)) < value * (1 - ROUNDING):
                    gained = value - max(reached, goal)
                    tried.append((gained / (num_units * abs(source - target)), reached, flown))
        if not tried:
            break
        _, value, runs = max(tried, key=lambda each: (each[0], -each[1]))
    return _stages_of(runs)


def _stages_of(runs: Sequence[_Run]) -> tuple[StagePlan, ...]:
    return merged_stages(stages_from_counts([run.device for run in runs], [run.num_units for run in runs]))


def num_moved(before: Sequence[StagePlan], after: Sequence[StagePlan]) -> int:
    """How many units are on another device."""
    return sum(here != there for here, there in zip(owners_of(before), owners_of(after), strict=True))


def ways_of(stages: Sequence[StagePlan]) -> frozenset[tuple[str, str]]:
    """From which device to which a ring goes."""
    devices = [stage.device for stage in merged_stages(stages)]
    ways = zip(devices, (*devices[1:], devices[0]), strict=True)
    return frozenset((here, there) for here, there in ways if here != there)


def _likenesses(problem: Problem) -> dict[str, object]:
    """Equal for devices of the same numbers, links included; the source is like no other."""
    links: dict[str, list[tuple[bool, float, float]]] = {device.name: [] for device in problem.devices}
    for link in problem.links:
        links[link.source].append((True, link.latency_s, link.bytes_per_s))
        links[link.target].append((False, link.latency_s, link.bytes_per_s))
    return {
        device.name: (replace(device, name=""), tuple(sorted(links[device.name])), device.name == problem.source)
        for device in problem.devices
    }
