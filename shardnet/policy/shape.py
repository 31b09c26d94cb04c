"""Which stages the next ring has, so that every device has one for all units that follow each other there. Pure.

What is loaded is kept: a stage goes on with those of its units that its device still has, and units that the device has
not become a new stage beside it. The two become one. Whoever performs that does it in this order, and may be broken off
behind any step, for it goes by what is there:

    load      what is new, as stages beside the ring
    fence     all of them adopt their places, switch and retire (`cluster.handover`)
    pull      those that follow others copy the last of them
    shape     every stage keeps its own section, and those of one piece become one (`StageHost.shape`)
    catch up  every stage says how far it stands, and is sent what it lacks (`policy.mending`)

Stages become one as they stand, and the whole stands where the one stands that has come least far: the others compute
anew what it lacks. So one that is new, or has not caught up, stays a stage of its own until it has (`is_level`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from shardnet.plan import Plan, StagePlan

if TYPE_CHECKING:  # messages hold tensors, and a simulation needs no torch
    from shardnet.transport.messages import SessionStanding

MOST_BEHIND = 4
"""Tokens of a session that may be computed anew when two stages become one."""


class Held(NamedTuple):
    """A stage that is there."""

    plan: StagePlan
    is_level: bool = True
    """It stands where the stages beside it stand."""


class Section(NamedTuple):
    """Units of a stage that come from one place."""

    plan: StagePlan
    held: int | None
    """The index of the stage that has them, maybe among others; None where they are to be loaded."""


class Piece(NamedTuple):
    """A stage of the ring that is to be."""

    plan: StagePlan
    sections: tuple[Section, ...]
    """In order. Where there are several, they become one."""


def pieces(
    held: Sequence[Held], plan: Plan, comes_level: Callable[[StagePlan], bool] = lambda _: False
) -> tuple[Piece, ...]:
    """The stages of the next ring.

    Args:
        held: what is there, without what is gone; a device may have several, also of the same units.
        plan: gives every unit to a device.
        comes_level: whether a new stage stands where the others do, as where no session is open.

    Each of `held` is used once at most. Of one that lies on both sides of units that its device has from elsewhere, or
    no more, the longer side is kept.
    """
    found: list[Piece] = []
    sections = sorted(_sections(held, plan), key=lambda section: section.plan.first_unit)

    def is_level(section: Section) -> bool:
        return comes_level(section.plan) if section.held is None else held[section.held].is_level

    for section in sections:
        if found and found[-1].plan.device == section.plan.device:
            last = found[-1]
            if is_level(section) and is_level(last.sections[-1]):
                whole = StagePlan(last.plan.device, last.plan.first_unit, section.plan.last_unit)
                found[-1] = Piece(whole, (*last.sections, section))
                continue
        found.append(Piece(section.plan, (section,)))
    return tuple(found)


def missing(found: Sequence[Piece]) -> tuple[StagePlan, ...]:
    """What is to be loaded."""
    return tuple(section.plan for piece in found for section in piece.sections if section.held is None)


def are_level(standings: Sequence[Mapping[int, SessionStanding]]) -> bool:
    """Whether these stages could become one now, and next to nothing would be computed anew."""
    if len({frozenset(each) for each in standings}) > 1:
        return False
    for session in standings[0]:
        lengths = [each[session].length for each in standings]
        if max(lengths) - min(lengths) > MOST_BEHIND:
            return False
    return True


def _sections(held: Sequence[Held], plan: Plan) -> list[Section]:
    """Whoever has most of what is still to be found is taken first: so all that is there is used."""
    runs = [list(run) for _, run in groupby(range(plan.num_units), plan.device_of)]
    gaps = [StagePlan(plan.device_of(run[0]), run[0], run[-1]) for run in runs]
    left = dict(enumerate(held))
    found: list[Section] = []
    while True:
        shared = [(_shared(stage.plan, gap), -index, gap) for index, stage in left.items() for gap in gaps]
        most, number, gap = max(shared, key=lambda each: each[:2], default=(0, 0, None))
        if gap is None or most == 0:
            return found + [Section(each, None) for each in gaps]
        stage = left.pop(-number).plan
        first, last = max(stage.first_unit, gap.first_unit), min(stage.last_unit, gap.last_unit)
        found.append(Section(StagePlan(gap.device, first, last), -number))
        gaps.remove(gap)
        if gap.first_unit < first:
            gaps.append(StagePlan(gap.device, gap.first_unit, first - 1))
        if last < gap.last_unit:
            gaps.append(StagePlan(gap.device, last + 1, gap.last_unit))


def _shared(stage: StagePlan, gap: StagePlan) -> int:
    """How many of the units a stage has."""
    if stage.device != gap.device:
        return 0
    return max(min(stage.last_unit, gap.last_unit) - max(stage.first_unit, gap.first_unit) + 1, 0)
