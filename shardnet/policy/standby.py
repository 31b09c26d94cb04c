"""Which devices keep whose units ready, so that a loss costs no loading. Pure.

What is kept ready is what would be taken over: for each device in turn it is asked who would take over what, and the
answer is loaded before it is needed. Every device is as likely to be lost, and what is saved is the time to load, so
that each byte is worth the same: the devices that cost least are covered first, that as many as possible are.

Where it does not suffice for all of a device's units, what is left of it holds those beside each device's own, to which
layers can move without a load: LinguaLinked's overlapping modules (arXiv:2312.00388), chosen by its second programme.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from shardnet.plan import Plan, StagePlan
from shardnet.planner.problem import Problem
from shardnet.planner.rules.lingualinked import overlap
from shardnet.policy.shape import Held, missing, pieces
from shardnet.policy.succession import Away, Means, succeed

QUIET_S = 10.0
"""So long after a change nothing is loaded for the next one."""
COPY_S = 60.0
"""So long a change of plan may wait until the conversations under way are copied; what is lacking is computed anew."""


class Reserve(NamedTuple):
    """Units that a device keeps ready for when another one is lost."""

    stage: StagePlan
    instead_of: str


def reserves(
    plan: Plan, stages: Sequence[StagePlan], means: Means, unit_bytes: Sequence[int], most_bytes: Mapping[str, int]
) -> tuple[Reserve, ...]:
    """What is to be kept ready.

    Args:
        plan: the one in force.
        stages: of its ring; a device may have several.
        unit_bytes: what each unit's weights take.
        most_bytes: what each device may give for this; nothing where it is absent.

    Units that a device keeps ready for one are not counted again where it would take them over from another.
    """
    offers: list[tuple[int, str, tuple[StagePlan, ...]]] = []
    for device in plan.devices:
        verdict = succeed(plan, None, Away(lost=frozenset({device})), means)
        if not verdict.is_over:
            parts = missing(pieces([Held(stage) for stage in stages if stage.device != device], verdict.plan))
            offers.append((sum(_bytes_of(part, unit_bytes) for part in parts), device, parts))
    held: Counter[str] = Counter()
    kept: dict[StagePlan, str] = {}
    for _, device, parts in sorted(offers, key=lambda offer: offer[0]):
        needed = held.copy()
        for part in parts:
            needed[part.device] += 0 if part in kept else _bytes_of(part, unit_bytes)
        if all(needed[part.device] <= most_bytes.get(part.device, 0) for part in parts):
            held = needed
            kept |= {part: device for part in parts if part not in kept}
    return tuple(Reserve(stage, device) for stage, device in kept.items())


def overlapping(
    problem: Problem, plan: Plan, kept: Sequence[Reserve], unit_bytes: Sequence[int], most_bytes: Mapping[str, int]
) -> tuple[Reserve, ...]:
    """What is to be kept beside that, of units that nobody keeps ready.

    Args:
        problem: of the devices of the plan, with the seconds that units take there.
        kept: what `reserves` has found; what is pinned nobody else keeps, either.

    Raises:
        ShardnetError: there is no programme, or it finds nothing in time.
    """
    ready = {unit for reserve in kept for unit in range(reserve.stage.first_unit, reserve.stage.last_unit + 1)}
    ready |= {
        unit for unit, is_pinned in ((0, problem.pin_embedding), (plan.num_units - 1, problem.pin_head)) if is_pinned
    }
    if len(ready) == plan.num_units:
        return ()
    used: Counter[str] = Counter()
    for reserve in kept:
        used[reserve.stage.device] += _bytes_of(reserve.stage, unit_bytes)
    needed = [0 if unit in ready else num_bytes for unit, num_bytes in enumerate(unit_bytes)]
    own: Counter[str] = Counter()
    for stage in plan.stages:
        own[stage.device] += _bytes_of(stage, needed)
    devices = tuple(
        replace(each, memory_bytes=own[each.name] + max(most_bytes.get(each.name, 0) - used[each.name], 0))
        for each in problem.devices
    )
    units = tuple(
        replace(unit, weight_bytes=num_bytes, kv_bytes_per_token=0)
        for unit, num_bytes in zip(problem.units, needed, strict=True)
    )
    copied = overlap(replace(problem, devices=devices, units=units), plan.stages)
    found = []
    for device, chosen in copied.items():
        runs = _runs(device, [unit for unit in chosen if unit not in ready], plan)
        found += [Reserve(stage, plan.device_of(stage.first_unit)) for stage in runs]
    return tuple(found)


def _runs(device: str, units: Sequence[int], plan: Plan) -> list[StagePlan]:
    """Units as stages of a device, each of units that follow each other and that one other device has."""
    runs: list[StagePlan] = []
    for unit in units:
        owner = plan.device_of(unit)
        if runs and runs[-1].last_unit == unit - 1 and plan.device_of(unit - 1) == owner:
            runs[-1] = StagePlan(device, runs[-1].first_unit, unit)
        else:
            runs.append(StagePlan(device, unit, unit))
    return runs


def _bytes_of(stage: StagePlan, unit_bytes: Sequence[int]) -> int:
    return sum(unit_bytes[stage.first_unit : stage.last_unit + 1])
