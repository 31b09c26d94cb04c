"""One pass of some tokens of some sessions through a stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from shardnet.stage.inbox import StepWork
from shardnet.stage.live_sessions import LiveSession


@dataclass(slots=True)
class Step:
    """What goes through, and whose it is."""

    work: StepWork
    sessions: list[LiveSession]
    samples: list[int] = field(default_factory=list)
    """Indices of the parts that end where a token must be sampled."""
    start_ns: int = 0
    end_ns: int = 0
