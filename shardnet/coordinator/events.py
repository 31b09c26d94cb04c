"""What happens in a cluster that outlives commands, as it is told to whoever started it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

Kind = Literal[
    "joined",
    "left",
    "lost",
    "suspected",
    "heard again",
    "paused",
    "unpaused",
    "taken over",
    "recovered",
    "moved",
    "fetched",
    "loading",
    "loaded",
    "not loaded",
    "resumed",
    "not resumed",
    "unloaded",
    "session began",
    "session ended",
    "session broke off",
    "predicted",
]


@dataclass(frozen=True)
class ClusterEvent:
    """Something that happened."""

    event: Kind
    text: str
    """In a sentence."""
    device: str = ""
    model: str = ""
    plan_version: int | None = None
    source: str = ""
    num_tokens: int | None = None
    """Of the prompt of a session that begins, of the answer of one that ends."""
    seconds: float | None = None
    """What it took, as `timeline.events.Event` has it."""

    def as_dict(self) -> dict[str, Any]:
        """What is known of it, by name."""
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in known.items() if value not in ("", None)}


Tell = Callable[[ClusterEvent], object]
"""Told of each event, from any thread; must not wait."""
