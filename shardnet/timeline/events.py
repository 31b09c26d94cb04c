"""What happened to a model while it was there: devices that were lost, and who took over from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shardnet.plan import StagePlan


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    at_s: float
    """Seconds since the model was loaded."""
    event: str
    """`lost` or `suspected`, `recovered`, `back`."""
    text: str
    """In words, such as "device-1 is lost (its process was killed by SIGKILL): its units 10-19 go to device-0"."""
    device: str = ""
    seconds: float | None = None
    """With `recovered`: from knowing of the loss until the sessions went on."""


def units_of(stages: Iterable[StagePlan]) -> str:
    """In words: "units 10-14 and 20"."""
    ranges = [each.units for each in stages]
    return ("units " if len(ranges) > 1 or "-" in ranges[0] else "unit ") + " and ".join(ranges)
