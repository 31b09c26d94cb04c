"""When a running plan should change, and what moves then. Pure: no clock, no network.

`revise` is asked now and then with what was observed. It answers with a plan only when the predicted gain is worth it
(threshold), has been so for a while (hysteresis), and the last change is long enough ago (cool-down): the longer ago,
the less is gained, and the more often the same units have gone back and forth. Where there is no room for all of it at
once, it goes in steps (`planner.steps`), which are one change. To look for a better plan takes time, which `Prospect`
saves as long as things are as they were. Who takes over from a lost device is another question: see `succession`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from shardnet.described.schema import require
from shardnet.errors import DoesNotFit, ShardnetError
from shardnet.foreign.bounds import BYTES_PER_S, SECONDS
from shardnet.plan import Plan, StagePlan, owners_of
from shardnet.planner.costs import evaluate, gain, with_stages
from shardnet.planner.least_moves import keep_places, with_fewer_moves
from shardnet.planner.problem import Device, Link, Problem
from shardnet.planner.steps import steps_to

Replan = Callable[[Problem], Plan]
ALIKE, LINKS_ALIKE = 0.05, 0.25
"""Slowdowns, of devices and of links, that differ by less speak for no other plan."""
NEARLY = 0.03
"""A plan that is worse than the best one by so little is taken where fewer units move."""
MOST_CHANGES = 20
BREAK_S = 5.0
"""After so long without a look, as without a conversation, what was seen before says nothing of now."""
LEAST_HOLD = 0.5
"""Of `Policy.hold_s`, however large a gain is: no plan is changed for what was seen once."""


@dataclass(frozen=True)
class Policy:
    """When a gain is worth a move."""

    min_gain: float = 0.15
    """Share by which the objective must improve."""
    hold_s: float = 2.0
    """A gain of just `min_gain` must be predicted for so long without a break; one of twice that for half of it."""
    cool_down_s: float = 15.0
    """Between two changes, for a gain of just `min_gain`; for twice that gain a quarter of it, and so on. What goes
    back to where it came from waits for all of it, and for twice as long each time."""
    memory_s: float = 300.0
    """For so long it is remembered what came from where."""

    def __post_init__(self) -> None:
        for name in ("min_gain", "hold_s", "cool_down_s", "memory_s"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, but is {getattr(self, name)}.")


@dataclass(frozen=True)
class Move:
    """One unit goes to another device. `source` is None where nobody living has it."""

    unit: int
    source: str | None
    target: str


class Change(NamedTuple):
    """A change of plan that was made."""

    at_s: float
    moves: tuple[Move, ...]


@dataclass(frozen=True)
class Past:
    """What is remembered from one look to the next."""

    changes: tuple[Change, ...] = ()
    """The latest `MOST_CHANGES`."""
    better_since_s: float | None = None
    """Since when each look has predicted a gain: `Decision.better_since_s` of the look before."""

    def after(self, change: Change) -> Past:
        """The same when one more change was made."""
        return Past((*self.changes, change)[-MOST_CHANGES:])

    def unseen_for(self, seconds: float) -> Past:
        """The same when nothing was looked at for so long."""
        return self if seconds <= BREAK_S else replace(self, better_since_s=None)


@dataclass(frozen=True)
class Observed:
    """What is known of a cluster at one moment."""

    now_s: float
    problem: Problem
    """As profiled, with every device that may be used."""
    device_slowdown: Mapping[str, float] = field(default_factory=dict)
    """Measured over profiled stage time of each device; 1 where absent."""
    link_slowdown: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """The same of links, by their ends."""
    in_flight: int = 1
    past: Past = field(default_factory=Past)


@dataclass(frozen=True)
class Decision:
    """Keep the plan (None), or change to another; and why, in words."""

    plan: Plan | None
    why: str
    better_since_s: float | None = None
    via: tuple[Plan, ...] = ()
    """What is gone over to before, where there is no room for all of the change at once."""


@dataclass(frozen=True)
class Prospect:
    """The best plan there was when it was looked for."""

    plan: Plan | None
    """None where none could be made."""
    share: float
    """By which it is predicted to improve the objective."""
    why_not: str
    seen: Observed
    """For which it was made."""
    via: tuple[Plan, ...] = ()
    """What is to be gone over to before."""

    def holds(self, devices: Mapping[str, float], links: Mapping[tuple[str, str], float]) -> bool:
        """Whether devices and links are about as fast as they were, by their slowdowns."""
        before, links_before = self.seen.device_slowdown, self.seen.link_slowdown
        if devices.keys() != before.keys():
            return False
        are_alike = all(abs(factor / before[device] - 1) <= ALIKE for device, factor in devices.items())
        changes = (links.get(way, 1.0) / links_before.get(way, 1.0) for way in {*links, *links_before})
        return are_alike and all(abs(change - 1) <= LINKS_ALIKE for change in changes)


def revise(plan: Plan, observed: Observed, policy: Policy, replan: Replan) -> Decision:
    """Whether to change a plan whose devices all live.

    Args:
        replan: makes the best plan of a problem, for `plan.objective`.
    """
    return decide(plan, prospect(plan, observed, replan), observed.now_s, observed.past, policy)


def prospect(
    plan: Plan,
    observed: Observed,
    replan: Replan,
    may_be: Callable[[Sequence[StagePlan]], bool] = lambda _: True,
    has_room: Callable[[Sequence[StagePlan], Sequence[StagePlan]], bool] = lambda before, after: True,
) -> Prospect:
    """What another plan would gain over this one, by what is observed.

    Args:
        may_be: whether a ring may be of some stages.
        has_room: whether devices have room to go over from some stages to others at once.
    """
    seen = observed_problem(observed)

    def value_of(stages: Sequence[StagePlan]) -> float:
        return evaluate(seen, stages).value(plan.objective, observed.in_flight)

    def may_change(before: Sequence[StagePlan], after: Sequence[StagePlan]) -> bool:
        return may_be(after) and has_room(before, after)

    now = value_of(plan.stages)
    try:
        best = keep_places(plan, replan(seen), seen)
    except ShardnetError as error:  # nothing fits, or a solver is late: what runs goes on
        return Prospect(None, 0.0, f"no other plan can be made now: {error}", observed)
    fewer_moves = partial(with_fewer_moves, plan, best, seen, observed.in_flight, NEARLY)
    at_once = fewer_moves(partial(may_change, plan.stages))
    if at_once is None or value_of(at_once.stages) > value_of(best.stages) * (1 + 2 * NEARLY):
        wanted = fewer_moves(may_be)
        steps = () if wanted is None else steps_to(plan.stages, wanted.stages, seen, value_of, may_change)
        if wanted is not None and steps:
            via = tuple(with_stages(wanted, seen, step, observed.in_flight) for step in steps[:-1])
            return Prospect(wanted, gain(now, value_of(wanted.stages)), "", observed, via)
    if at_once is None:
        return Prospect(None, 0.0, "there is no room for any change", observed)
    return Prospect(at_once, gain(now, value_of(at_once.stages)), "", observed)


def decide(plan: Plan, found: Prospect, now_s: float, past: Past, policy: Policy) -> Decision:
    """Whether to change to what was found."""
    if found.plan is None:
        return Decision(None, found.why_not)
    share = found.share
    if found.plan.stages == plan.stages or share < policy.min_gain:
        return Decision(None, f"the best plan would gain {share:.0%}, less than {policy.min_gain:.0%}")
    since = past.better_since_s if past.better_since_s is not None else now_s
    hold_s = policy.hold_s * max(policy.min_gain / share, LEAST_HOLD) if share > 0 else policy.hold_s
    if now_s - since < hold_s:
        return Decision(None, f"a gain of {share:.0%} is predicted; it must hold for {hold_s:.3g} s", since)
    recent = [change for change in past.changes if now_s - change.at_s < policy.memory_s]
    if recent:
        rest_s = _cool_down_s(moves(plan, found.plan), share, recent, policy)
        since_s = now_s - recent[-1].at_s
        if since_s < rest_s:
            why_not = f"the last change was {since_s:.1f} s ago, within the cool-down of {rest_s:.3g} s"
            return Decision(None, why_not, since)
    why = f"gains {share:.0%} ({plan.objective})"
    *via, better = (
        replace(step, version=plan.version + number) for number, step in enumerate((*found.via, found.plan), start=1)
    )
    return Decision(better, why, via=tuple(via))


def _cool_down_s(asked: Collection[Move], share: float, recent: Collection[Change], policy: Policy) -> float:
    """How long the last change must be ago before these are moved."""
    came_from = {(move.unit, move.source) for change in recent for move in change.moves}
    back = {move.unit for move in asked if (move.unit, move.target) in came_from}
    if back:
        num_moves = sum(any(move.unit in back for move in change.moves) for change in recent)
        return policy.cool_down_s * 2 ** (num_moves - 1)
    return policy.cool_down_s * (policy.min_gain / share) ** 2 if share > 0 else policy.cool_down_s


def moves(old: Plan, new: Plan, lost: Collection[str] = ()) -> tuple[Move, ...]:
    """Which units change their device, in unit order."""
    before, after = owners_of(old.stages), owners_of(new.stages)
    return tuple(
        Move(unit, None if before[unit] in lost else before[unit], after[unit])
        for unit in range(len(after))
        if before[unit] != after[unit]
    )


def observed_problem(observed: Observed) -> Problem:
    """The profiled problem with the slowdowns that were seen."""
    problem = observed.problem
    if not observed.device_slowdown and not observed.link_slowdown:
        return problem
    devices = tuple(_slowed(device, observed.device_slowdown.get(device.name, 1.0)) for device in problem.devices)
    links = tuple(_slowed_link(link, observed.link_slowdown) for link in problem.links)
    return replace(problem, devices=devices, links=links)


def without_devices(problem: Problem, names: Collection[str], cut: Collection[tuple[str, str]] = ()) -> Problem:
    """The problem without some devices and links, and without devices between which and the source is no way then.

    Raises:
        DoesNotFit: the source itself is gone.
    """
    if problem.source in names:
        raise DoesNotFit(
            f"The source {problem.source} is gone, and the prompt with it; start again from another device."
        )
    links = [link for link in problem.links if link.source not in names and link.target not in names]
    links = [link for link in links if (link.source, link.target) not in cut]
    ways = [(link.source, link.target) for link in links]
    left = _reached_from(problem.source, ways) & _reached_from(problem.source, [(to, by) for by, to in ways])
    return replace(
        problem,
        devices=tuple(device for device in problem.devices if device.name in left),
        links=tuple(link for link in links if link.source in left and link.target in left),
    )


def _reached_from(start: str, ways: Collection[tuple[str, str]]) -> set[str]:
    reached = {start}
    while more := {target for source, target in ways if source in reached} - reached:
        reached |= more
    return reached


def _slowed(device: Device, factor: float) -> Device:
    if factor == 1.0:
        return device
    prefill = device.prefill_unit_seconds
    return replace(
        device,
        unit_seconds=tuple(SECONDS.clamped(seconds * factor) for seconds in device.unit_seconds),
        prefill_unit_seconds=None if prefill is None else tuple(SECONDS.clamped(each * factor) for each in prefill),
    )


def _slowed_link(link: Link, slowdown: Mapping[tuple[str, str], float]) -> Link:
    factor = slowdown.get((link.source, link.target), 1.0)
    if factor == 1.0:
        return link
    latency_s, bytes_per_s = SECONDS.clamped(link.latency_s * factor), BYTES_PER_S.clamped(link.bytes_per_s / factor)
    return replace(link, latency_s=latency_s, bytes_per_s=bytes_per_s)
