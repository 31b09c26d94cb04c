"""What happened to a model while it was there: devices that were lost, and who took over from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shardnet.plan import Plan, StagePlan


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    at_s: float
    """Seconds since the model was loaded."""
    event: str
    """`lost`, `suspected` or `cut off`, `recovered`, `back`, `rebalanced`, `drained`, `newcomer`, `standby`,
    `fetched`."""
    text: str
    """In words, such as "device-1 is lost (its process was killed by SIGKILL): its units 10-19 go to device-0"."""
    device: str = ""
    seconds: float | None = None
    """Of what took a while: from knowing that a ring must take over from another until the sessions went on in it."""
    plan_version: int = 0
    """Of the plan in force then; it is a new one where the event says that a change is over."""
    num_devices: int = 0
    """How many devices have units by that plan."""


def units_of(stages: Iterable[StagePlan]) -> str:
    """In words: "units 10-14 and 20"."""
    ranges = [each.units for each in stages]
    return ("units " if len(ranges) > 1 or "-" in ranges[0] else "unit ") + " and ".join(ranges)


def units_on(plan: Plan, device: str) -> str:
    """What a device holds, in words; empty where that is nothing."""
    stages = [stage for stage in plan.stages if stage.device == device]
    return units_of(stages) if stages else ""


def takers_of(device: str, before: Plan, after: Plan) -> str:
    """Who holds by one plan what a device held by another, in words: "phone-2 and laptop"."""
    return " and ".join(dict.fromkeys(after.device_of(unit) for unit in before.units_on(device)))
