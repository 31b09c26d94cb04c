"""What a step samples where the head is: of each session one token behind the last one that is known, and further ones
as long as what was guessed is what is sampled.

A guess is known by its tag: what it is, the stage that samples need not know. Each token is drawn as without guesses,
one after the other, with the session's own scores, penalties and random numbers: so the text is the same. What was
guessed wrong, and all behind it, is given up at once.

Shapes: S tokens behind which one may be sampled, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from shardnet.errors import BadRequest
from shardnet.speculation.tags import TAG_BYTES, tag
from shardnet.stage.live_session import LiveSession
from shardnet.stage.sampling import Scores
from shardnet.stage.step import Step
from shardnet.transport.messages import Part
from shardnet.transport.session_messages import SampledToken


@dataclass(slots=True)
class Sampled:
    """Of one session."""

    session: LiveSession
    tokens: list[SampledToken] = field(default_factory=list)
    digests: list[int] = field(default_factory=list)
    """Of the answer before each of them."""
    error: BadRequest | None = None
    """Why it cannot go on behind them."""


def sample_step(step: Step, logits_SV: torch.Tensor) -> list[Sampled]:
    """Sample in each session that has come so far, and note in the step what was guessed wrong."""
    rows = [
        session.sampler
        for session, num_logits in zip(step.sessions, step.num_logits, strict=True)
        for _ in range(num_logits)
    ]
    scores = Scores([sampler for sampler in rows if sampler is not None], logits_SV)
    found: list[Sampled] = []
    first = 0
    for index, (part, session) in enumerate(zip(step.work.parts, step.sessions, strict=True)):
        num_logits = step.num_logits[index]
        if num_logits or part.num_guesses:
            sampled = Sampled(session)
            right = _sample(sampled, part, scores, first - (part.end - num_logits))
            step.wrong[index] = part.end - right
            found.append(sampled)
        first += num_logits
    return found


def _sample(sampled: Sampled, part: Part, scores: Scores, shift: int) -> int:
    """Go through the part's tokens; up to which position they are right.

    Args:
        shift: from a token's position to the row of its scores.
    """
    session = sampled.session
    session.num_checked += len(part.tags) // TAG_BYTES
    position = max(part.position, min(part.certain, session.sample_from - 1))
    while position < part.end:
        if position >= part.certain and not _is_right(session, part, position):
            return position
        position += 1
        if position == session.sample_from and not session.is_over:
            row = position - 1 + shift
            token_id = scores.draw(row)
            if isinstance(token_id, BadRequest):
                sampled.error = token_id
                return position
            sampled.digests.append(session.digest)
            sampled.tokens.append(scores.told(row, _noted(session, token_id, is_first=not sampled.tokens)))
    return position


def _is_right(session: LiveSession, part: Part, position: int) -> bool:
    """Whether a guess is what was sampled there."""
    index = position - session.kept_from
    if not (0 <= index < len(session.sampled)) or session.is_over or not session.spec.guess_key:
        return False
    first = (position - part.end) * TAG_BYTES + len(part.tags)
    mine = tag(session.spec.guess_key, part.branch, position, session.sampled[index])
    return part.tags[first : first + TAG_BYTES] == mine


def _noted(session: LiveSession, token_id: int, *, is_first: bool) -> SampledToken:
    """Note a token that was sampled, the first of its step or not; what the source is told of it."""
    spec = session.spec
    index = session.sample_from - spec.prompt_tokens
    session.note_sampled(token_id)
    reason = spec.finish_reason(index, token_id)
    session.is_over = bool(reason)
    guesses = -1
    if is_first:
        guesses, session.num_checked = session.num_checked, 0
    return SampledToken(spec.session, index, token_id, reason, guesses=guesses)
