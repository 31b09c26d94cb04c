"""One pass of some tokens of some sessions through a stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from shardnet.models import Segment
from shardnet.models.scoring import AtHead, ScoredTokens
from shardnet.stage.inbox import StepWork
from shardnet.stage.live_session import LiveSession
from shardnet.stage.row_memory import KeptTokens
from shardnet.stage.scoring import to_score
from shardnet.timeline.recorder import Recorder


@dataclass(slots=True)
class Step:
    """What goes through, and whose it is."""

    work: StepWork
    sessions: list[LiveSession]
    num_logits: list[int] = field(default_factory=list)
    """Where the head is: of so many tokens at the end of each part there are logits."""
    wrong: dict[int, int] = field(default_factory=dict)
    """Where the head is: of a part, by its index, so many tokens at its end were guessed wrong."""
    scored: list[tuple[int, ScoredTokens]] = field(default_factory=list)
    """Indices of the parts that are scored here, and what is found of them."""
    start_ns: int = 0
    end_ns: int = 0

    def note_in(self, recorder: Recorder) -> None:
        """It was done."""
        parts = self.work.parts
        recorder.compute(
            self.start_ns,
            self.end_ns,
            num_tokens=sum(part.num_tokens for part in parts),
            num_sessions=len(parts),
            has_guesses=any(part.num_guesses for part in parts),
        )

    def segments(self, *, has_head: bool) -> list[Segment]:
        """What the shard is to run. To be called once."""
        segments = []
        for index, (part, session) in enumerate(zip(self.work.parts, self.sessions, strict=True)):
            scored = to_score(session.spec, part) if has_head else None
            at_head: AtHead | None = scored
            num_logits = 0
            if scored is not None:
                self.scored.append((index, scored))
            elif session.rows is not None:
                at_head = KeptTokens(session.rows, part.position)
            elif session.sampler is not None:
                num_logits = min(max(part.end - session.sample_from + 1, 0), part.num_tokens)
            self.num_logits.append(num_logits)
            segments.append(Segment(session.kv, part.num_tokens, num_logits, at_head))
        return segments
