"""Which devices keep whose units ready, so that a loss costs no loading. Pure.

What is kept ready is what would be taken over: for each device in turn it is asked who would take over what, and the
answer is loaded before it is needed (LinguaLinked, arXiv:2312.00388, calls them overlapping modules; there they serve
balancing). Every device is as likely to be lost, and what is saved is the time to load, so that each byte is worth the
same: the devices that cost least are covered first, that as many as possible are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shardnet.plan import Plan, StagePlan
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


def _bytes_of(stage: StagePlan, unit_bytes: Sequence[int]) -> int:
    return sum(unit_bytes[stage.first_unit : stage.last_unit + 1])
