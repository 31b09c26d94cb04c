"""From one plan to another in several changes, where devices have no room for all of it at once. Pure.

A change loads what it moves before the ring goes over to it, so that every device needs room for what it gives away
beside what it gets. Where memory is scarce that may be too much. Then a part goes first, and the room that it leaves
behind is for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shardnet.plan import StagePlan, Stages, merged_stages, owners_of, stages_of_owners
from shardnet.planner.costs import fits
from shardnet.planner.least_moves import num_moved
from shardnet.planner.problem import Problem

WORSE = 0.1
"""A step that is not the last may make the plan worse than it was by so much, for the moment that it lasts."""
MOST_STEPS = 8
MOST_TRIES = 1000
"""Plans that are looked at for one step, about: a second of a core. Where it were more, no way is looked for."""


def steps_to(
    old: Sequence[StagePlan],
    new: Sequence[StagePlan],
    problem: Problem,
    value_of: Callable[[Sequence[StagePlan]], float],
    may_change: Callable[[Sequence[StagePlan], Sequence[StagePlan]], bool],
) -> tuple[Stages, ...]:
    """The stages to go over to, one after the other, the last of them `new`; none where no way is found.

    In each step as many units go to where they belong as there is room for, which is looked for greedily: from the ends
    of what still has to move, always what costs least.

    Args:
        value_of: what stages cost; smaller is better.
        may_change: whether it can be gone over from some stages to others at once.
    """
    goal = merged_stages(new)
    here = merged_stages(old)
    if num_moved(here, goal) * len(_ends(here, goal)) > MOST_TRIES and not may_change(here, goal):
        return ()
    least = value_of(here) * (1 + WORSE)
    found: list[Stages] = []
    while len(found) < MOST_STEPS:
        if may_change(here, goal):
            return (*found, tuple(new))
        step = _as_far_as_possible(here, goal, problem, value_of, may_change, least)
        if step == here:
            break
        found.append(step)
        here = step
    return ()


def _as_far_as_possible(
    here: Stages,
    goal: Stages,
    problem: Problem,
    value_of: Callable[[Sequence[StagePlan]], float],
    may_change: Callable[[Sequence[StagePlan], Sequence[StagePlan]], bool],
    least: float,
) -> Stages:
    """`here` with most of the units that can be where they are in `goal`, at a cost of `least` or less."""
    reached, farthest = here, here
    while True:
        nearer = [_with_unit(reached, unit, device) for unit, device in _ends(reached, goal)]
        tried = [(value_of(each), each) for each in nearer if fits(problem, each) and may_change(here, each)]
        if not tried:
            return farthest
        value, reached = min(tried, key=lambda each: each[0])
        if value <= least:
            farthest = reached


def _ends(here: Stages, goal: Stages) -> list[tuple[int, str]]:
    """The first and the last unit of each run that is to go from one device to another, with where it is to be."""
    ways = list(zip(owners_of(here), owners_of(goal), strict=True))
    return [
        (unit, target)
        for unit, (source, target) in enumerate(ways)
        if source != target and (ways[unit - 1 : unit] != [ways[unit]] or ways[unit + 1 : unit + 2] != [ways[unit]])
    ]


def _with_unit(stages: Stages, unit: int, device: str) -> Stages:
    owners = owners_of(stages)
    owners[unit] = device
    return stages_of_owners(owners)
