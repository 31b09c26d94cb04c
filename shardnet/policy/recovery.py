"""What follows when a device leaves, joins, or a better plan is seen: load, switch, give up, end. Pure.

A plan is loaded first and switched to when its units are there. After a loss every session starts again at the token
that was lost; otherwise each moves at its next token. Whoever performs this says when a loss was noticed, when it has
loaded, and now and then what it observes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from shardnet.errors import ShardnetError
from shardnet.plan import Plan
from shardnet.policy.rebalance import Change, Move, Observed, Past, Policy, Replan, moves, replace_lost, revise


@dataclass(frozen=True)
class Rules:
    """By what is decided."""

    source: str
    """The device where the prompts are."""
    replan: Replan | None
    """Makes the best plan of a problem; without it a lost device ends the run, and nothing else changes the plan."""
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class Course:
    """Where a running plan stands."""

    plan: Plan
    members: frozenset[str]
    coming: Plan | None = None
    """The plan whose units are being loaded."""
    broken: frozenset[str] = frozenset()
    """Devices of the ring that left: what they held is gone, even when they come back."""
    noticed: frozenset[str] = frozenset()
    """Those of `broken` of which it is known."""
    past: Past = field(default_factory=Past)


class Left(NamedTuple):
    """A device is gone; nobody has noticed yet."""

    device: str
    needed: Collection[str]
    """Devices without which the ring stands still: those of its stages, and those that relay for them."""


class Noticed(NamedTuple):
    """That a device is gone is known now."""

    device: str
    observed: Observed
    absent: Collection[str]


class Joined(NamedTuple):
    """A device is there, for the first time or again."""

    device: str


class Looked(NamedTuple):
    """How fast devices and links are now."""

    observed: Observed
    absent: Collection[str]


class Loaded(NamedTuple):
    """Every device has the units that a plan gives it."""

    plan: Plan


Event = Left | Noticed | Joined | Looked | Loaded


class Load(NamedTuple):
    """Let devices load what `plan` gives them and they have not."""

    plan: Plan
    moves: tuple[Move, ...]
    why: str


class Switch(NamedTuple):
    """Go on under `plan`."""

    plan: Plan
    starts_again: bool
    """What was on its way is lost: every session starts again at the token that it waits for."""


class GiveUp(NamedTuple):
    """What is being loaded is of no use any more."""

    plan: Plan
    why: str


class Defer(NamedTuple):
    """A device that came back waits until its loss has been dealt with: say it again later."""

    device: str


class Fail(NamedTuple):
    """Nothing can go on."""

    why: str


Action = Load | Switch | GiveUp | Defer | Fail


def handle(now_s: float, course: Course, event: Event, rules: Rules) -> tuple[Course, tuple[Action, ...]]:
    """Where the plan stands after `event`, and what is to be done."""
    if isinstance(event, Left):
        return _leave(course, event, rules)
    if isinstance(event, Noticed):
        return _mend(course, event, rules)
    if isinstance(event, Joined):
        return _join(course, event.device)
    if isinstance(event, Looked):
        return _look(course, event, rules)
    return _switch(now_s, course, event.plan)


def _leave(course: Course, event: Left, rules: Rules) -> tuple[Course, tuple[Action, ...]]:
    device = event.device
    if device not in course.members:
        return course, ()
    actions: list[Action] = []
    broken = course.broken | {device} if device in event.needed else course.broken
    coming = course.coming
    if coming is not None and device in coming.devices:
        actions.append(GiveUp(coming, f"{device} is to be part of it"))
        coming = None
    if device == rules.source:
        actions.append(Fail(f"the source {device} left, and the prompt with it"))
    return replace(course, members=course.members - {device}, broken=broken, coming=coming), tuple(actions)


def _mend(course: Course, event: Noticed, rules: Rules) -> tuple[Course, tuple[Action, ...]]:
    """Plan without what is gone, unless that is under way: what was to mend the ring may have been given up, too."""
    course = replace(course, noticed=course.broken & (course.noticed | {event.device}))
    if not course.noticed or course.coming is not None:
        return course, ()
    lost = " and ".join(sorted(course.noticed))
    if rules.replan is None:
        return course, (Fail(f"{lost} left, and nothing replaces it"),)
    try:
        plan = replace_lost(course.plan, event.observed, event.absent, rules.replan, rules.policy)
    except ShardnetError as error:  # nothing fits, there is no way, or a solver is late
        return course, (Fail(str(error)),)
    are_lost = f"{lost} is lost" if len(course.noticed) == 1 else f"{lost} are lost"
    return _load(course, plan, event.absent, are_lost)


def _join(course: Course, device: str) -> tuple[Course, tuple[Action, ...]]:
    if device in course.broken:
        return course, (Defer(device),)
    return replace(course, members=course.members | {device}), ()


def _look(course: Course, event: Looked, rules: Rules) -> tuple[Course, tuple[Action, ...]]:
    if course.coming is not None or course.broken or rules.replan is None:
        return course, ()
    decision = revise(course.plan, event.observed, rules.policy, rules.replan)
    course = replace(course, past=replace(course.past, better_since_s=decision.better_since_s))
    if decision.plan is None:
        return course, ()
    return _load(course, decision.plan, event.absent, decision.why)


def _load(course: Course, plan: Plan, absent: Collection[str], why: str) -> tuple[Course, tuple[Action, ...]]:
    return replace(course, coming=plan), (Load(plan, moves(course.plan, plan, absent), why),)


def _switch(now_s: float, course: Course, plan: Plan) -> tuple[Course, tuple[Action, ...]]:
    if course.coming is not plan:
        return course, ()  # given up meanwhile
    after = Course(plan, course.members, past=course.past.after(Change(now_s, moves(course.plan, plan))))
    return after, (Switch(plan, starts_again=bool(course.broken)),)
