"""Has others take over what a device holds before it leaves. Who they are is decided by `policy.succession`."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

from shardnet.cluster.rings import Rings
from shardnet.errors import ShardnetError
from shardnet.plan import Plan
from shardnet.policy.succession import DRAIN_TRIES, Away, Means, drained
from shardnet.timeline.events import takers_of, units_on


def held_by(rings: Rings, device: str) -> str:
    """What a device holds by the plan in force, in words; empty where that is nothing."""
    return "" if rings.blueprint is None else units_on(rings.plan, device)


def drain(rings: Rings, device: str, leaving: Collection[str] = ()) -> str:
    """Have others take over, while the ring goes on. Waits for that.

    Args:
        leaving: devices that are about to leave, too, and take over nothing where others can.

    Returns:
        Who has taken over what, in words; empty where the device holds nothing, or nobody can.
    """
    for _ in range(DRAIN_TRIES):
        moves: list[str] = []

        def choose(plan: Plan, away: Away, means: Means, moves: list[str] = moves) -> Plan | None:
            after = drained(device, plan, replace(away, silent=away.silent.union(leaving)), means)
            if after is not None and not _has_room(rings, plan, after, means):
                after = None
            moves.append("" if after is None else f"{units_on(plan, device)} went to {takers_of(device, plan, after)}")
            return after

        with suppress(ShardnetError):  # who was to take over is gone, or has no room any more
            if rings.go_over(choose):
                return moves[-1]
        if moves == [""] or not held_by(rings, device):
            return ""
        rings.current  # noqa: B018 - waits for the change that came first
    return ""


def _has_room(rings: Rings, before: Plan, after: Plan, means: Means) -> bool:
    """Whether devices can hold what is open while both plans are there."""
    return rings.blueprint is not None and rings.blueprint.can_change(before.stages, after.stages, means.tokens)
