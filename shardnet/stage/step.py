"""One pass of some tokens of some sessions through a stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from shardnet.models import Segment
from shardnet.models.scoring import ScoredTokens
from shardnet.stage.inbox import StepWork
from shardnet.stage.live_sessions import LiveSession
from shardnet.stage.scoring import to_score


@dataclass(slots=True)
class Step:
    """What goes through, and whose it is."""

    work: StepWork
    sessions: list[LiveSession]
    samples: list[int] = field(default_factory=list)
    """Indices of the parts that end where a token must be sampled."""
    scored: list[tuple[int, ScoredTokens]] = field(default_factory=list)
    """Indices of the parts that are scored here, and what is found of them."""
    start_ns: int = 0
    end_ns: int = 0

    def segments(self, *, has_head: bool) -> list[Segment]:
        """What the shard is to run. To be called once."""
        segments = []
        for index, (part, session) in enumerate(zip(self.work.parts, self.sessions, strict=True)):
            scored = to_score(session.spec, part) if has_head else None
            is_sampled = scored is None and part.end >= session.sample_from
            if scored is not None:
                self.scored.append((index, scored))
            elif is_sampled:
                self.samples.append(index)
            segments.append(Segment(session.kv, part.num_tokens, is_sampled, scored))
        return segments
