"""Who holds what from now on, where devices are gone or silent, or the way between two of them is cut. Pure.

It goes by how things are and by nothing that happened before, so it may be asked again at any moment of a change. What
is lost for good must go to others; what is silent should, as long as nothing is given up for it: it may come back. So
these are tried in turn, and the first that works is taken:

    1. others take over from all that are away, with room for every open session
    2. others take over from those that are lost only; who is silent is waited for, and keeps what it holds
    3. the same, and what is lost may go to who is silent, too
    4. to 6. the same with room for one short session, where a device is lost: what does not fit ends

Each of these first with what is loaded at others already (`policy.standby`). A device that did not take what it was
given (`full`) is given nothing more than it holds. Of two devices with a cut between them one is left out, where the
ring would cross it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

from shardnet.errors import DoesNotFit, ShardnetError
from shardnet.plan import Plan, StagePlan
from shardnet.planner.least_moves import ways_of
from shardnet.planner.problem import Problem
from shardnet.planner.repairs import repaired

STANDBY = NONE, COLD, WARM, HOT = "none", "cold", "warm", "hot"
"""What is ready for a loss: nobody takes over; others load what was lost then; before; and know conversations, too."""
Cut = tuple[str, str]
"""Nothing that the first device sends reaches the second."""


@dataclass(frozen=True)
class Away:
    """What cannot be reckoned with."""

    lost: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()
    """They may come back."""
    full: frozenset[str] = frozenset()
    """They did not take what was given to them."""
    cut: frozenset[Cut] = frozenset()
    late: frozenset[Cut] = frozenset()
    """Nothing has arrived that way for a while: the ring goes another way where there is one."""


@dataclass(frozen=True)
class Means:
    """What others can take over with."""

    problem: Callable[[Collection[str], int], Problem]
    """Of placing the model without some devices, with room for so many tokens on each that is left; raises DoesNotFit
    where none is."""
    has_room: Callable[[Sequence[StagePlan], int], bool]
    """Whether every device has room for so many tokens beside the units that stages give it, in what was set aside."""
    reserved_tokens: int
    """What the open sessions have reserved."""
    least_tokens: int
    """For so many there must be room in any case."""
    is_ready: Callable[[Sequence[StagePlan]], bool] = lambda _: False
    """Whether what others take over is loaded there already."""
    standby: str = COLD
    """Of `STANDBY`."""

    @property
    def tokens(self) -> int:
        """For so many there must be room, that no session ends."""
        return max(self.least_tokens, self.reserved_tokens)


@dataclass(frozen=True)
class Verdict:
    """What becomes of a plan."""

    plan: Plan
    """The one to go over to, or to stay with."""
    waits_for: frozenset[str] = frozenset()
    """Silent devices that keep what the plan gives them."""
    why_not: str = ""
    """Why nobody takes over from the lost; or, where none is lost, from the silent."""
    is_over: bool = False
    """Devices are lost that nobody can replace."""


def succeed(plan: Plan, coming: Plan | None, away: Away, means: Means) -> Verdict:
    """What is to become of a plan.

    Args:
        plan: the one in force.
        coming: the one that is being gone over to; it is kept where it can be.
    """
    why_not = ""
    for attempt in _attempts(plan, coming, away, means):
        try:
            found = _without(plan, coming, attempt, means)
        except ShardnetError as error:  # nothing fits, or there is no way
            why_not = why_not or str(error)
        else:
            return Verdict(found, away.silent.intersection(found.devices), why_not)
    return Verdict(coming or plan, why_not=why_not, is_over=True)


DRAIN_TRIES = 10
"""Of a change before which another one came each time."""


def drained(device: str, plan: Plan, away: Away, means: Means) -> Plan | None:
    """A plan in which others hold what a device holds, which is about to leave; None where they cannot."""
    if device not in plan.devices:
        return None
    means = replace(means, standby=COLD)  # it asks for it, and is no loss
    verdict = succeed(plan, None, replace(away, silent=away.silent | {device}), means)
    return None if device in verdict.plan.devices else verdict.plan


_NONE: frozenset[str] = frozenset()


class _Attempt(NamedTuple):
    leaving: frozenset[str]
    full: frozenset[str]
    cut: frozenset[Cut]
    tokens: int
    is_ready: bool
    """What is taken over must have been loaded."""


def _attempts(plan: Plan, coming: Plan | None, away: Away, means: Means) -> Iterator[_Attempt]:
    """What is to be done without, the most first."""
    ways = ways_of((coming or plan).stages)
    for tokens in dict.fromkeys((means.reserved_tokens, 0)):
        for silent, full in dict.fromkeys(((away.silent, _NONE), (_NONE, away.silent), (_NONE, _NONE))):
            for cut in dict.fromkeys((away.cut | away.late, away.cut)):
                for end, is_ready in product(_left_out(cut), (True, False)):
                    yield _Attempt(away.lost | silent | end, away.full | full, cut, tokens, is_ready)
        if not (away.cut & ways or away.lost.intersection(plan.devices)):
            return


def _left_out(cut: Collection[Cut]) -> list[frozenset[str]]:
    """None, and then sets of devices with one end at least of every cut."""
    found: list[frozenset[str]] = [frozenset()]
    for ends in sorted(cut):
        found = [each | {end} if each.isdisjoint(ends) else each for each in found for end in reversed(ends)]
    return list(dict.fromkeys((frozenset(), *found)))


def _without(plan: Plan, coming: Plan | None, attempt: _Attempt, means: Means) -> Plan:
    """The plan that others hold alone.

    Raises:
        ShardnetError: they cannot.
    """
    leaving, full, cut, tokens, is_ready = attempt
    for kept in [plan] if coming is None or _gives_more(coming, plan, full) else [coming, plan]:
        if leaving.isdisjoint(kept.devices) and cut.isdisjoint(ways_of(kept.stages)):
            return kept
    if means.standby == NONE:
        raise DoesNotFit("standby is none")

    def may_be(stages: Sequence[StagePlan]) -> bool:
        return (
            cut.isdisjoint(ways_of(stages))
            and means.has_room(stages, tokens)
            and (means.is_ready(stages) or not is_ready)
        )

    problem = _with_full(means.problem(leaving, max(tokens, means.least_tokens)), full, plan)
    return repaired(plan, problem, may_be, may_scatter=not is_ready)


def _gives_more(coming: Plan, plan: Plan, devices: Collection[str]) -> bool:
    """Whether one of the devices gets units that it has not."""
    units = range(coming.stages[-1].last_unit + 1)
    return any(coming.device_of(unit) in devices and coming.device_of(unit) != plan.device_of(unit) for unit in units)


def _with_full(problem: Problem, full: Collection[str], plan: Plan) -> Problem:
    """The problem in which those who are full have room for what the plan gives them, and no more."""
    held = dict.fromkeys(full, 0.0)
    for stage in plan.stages:
        if stage.device in held:
            held[stage.device] += problem.memory_of_units(stage.first_unit, stage.last_unit)
    devices = [
        replace(device, memory_bytes=min(device.memory_bytes, held.get(device.name, device.memory_bytes)))
        for device in problem.devices
    ]
    return replace(problem, devices=tuple(devices))
