"""What losses cost the sessions of a run, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CAUSES = ("detection", "waiting", "load", "moving")
"""Until it is known that something is lost; until a silent device, which nobody can replace, is heard again; until what
others take over is loaded; until the caches of what moved are computed anew, or copied."""


@dataclass(frozen=True)
class Repairs:
    """What losses cost. Seconds are those of all answers together, each with its prompt."""

    num_repairs: int
    answers_s: float
    """How long all answers took."""
    lost_s: dict[str, float]
    """By `CAUSES`."""
    num_delayed: int
    """Answers that waited for a repair."""

    @property
    def share(self) -> float:
        """Of the answers' time."""
        return sum(self.lost_s.values()) / self.answers_s if self.answers_s else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "repairs": self.num_repairs,
            "answers_delayed": self.num_delayed,
            "answers_s": self.answers_s,
            "lost_s": self.lost_s,
            "lost_share": self.share,
        }
