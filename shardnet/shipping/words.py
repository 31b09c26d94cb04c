"""How it is told that weights are on their way. Pure."""

from __future__ import annotations

from shardnet.plan import StagePlan
from shardnet.timeline.events import units_of
from shardnet.transport.shipping_messages import FetchProgress

MEGABYTE = 1e6


def bar_of(fetched: FetchProgress) -> str:
    """What a bar says: "pixel-7 is fetching units 3-5: 41 of 120 MB from laptop"."""
    return f"{fetched.device} is fetching {_units(fetched)}: {amount_of(fetched)}"


def amount_of(fetched: FetchProgress) -> str:
    """How much came, and from whom."""
    came = f"{_megabytes(fetched.done_bytes)} of {_megabytes(fetched.total_bytes)} MB"
    return f"{came} from {' and '.join(fetched.holders)}" if fetched.holders else came


def outcome_of(fetched: FetchProgress) -> str:
    """What an event says when all is there."""
    text = (
        f"{fetched.device} has fetched {_units(fetched)}: {_megabytes(fetched.total_bytes)} MB from "
        f"{' and '.join(fetched.holders)} in {fetched.seconds:.1f} s"
    )
    if fetched.damaged:
        text += f"; what {' and '.join(fetched.damaged)} sent was damaged in part, and was fetched anew"
    return text


def _units(fetched: FetchProgress) -> str:
    return units_of([StagePlan(fetched.device, fetched.first_unit, fetched.last_unit)])


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / MEGABYTE:.0f}" if num_bytes >= 10 * MEGABYTE else f"{num_bytes / MEGABYTE:.1f}"
