"""What is told of the sessions of sources, in sentences."""

from __future__ import annotations

from shardnet.coordinator.events import ClusterEvent
from shardnet.coordinator.notebook import BrokenPage
from shardnet.foreign.quoting import counted
from shardnet.transport.source_messages import SessionRequest


def began(request: SessionRequest, broken: BrokenPage | None) -> ClusterEvent:
    num_tokens = len(request.prompt_ids)
    text = f"{request.source} asks: a prompt of {counted(num_tokens, 'tokens')}."
    if request.is_scored:
        text = f"{request.source} asks: a text of {counted(num_tokens, 'tokens')} is to be scored."
    if request.rows is not None:
        text = f"{request.source} asks: a text of {counted(num_tokens, 'tokens')} is to be read."
    if broken is not None:
        text = f"{request.source} resumes answer {broken.number} after {counted(len(broken.answer), 'tokens')}."
    return ClusterEvent("session began", text, source=request.source, num_tokens=num_tokens)


def ended(request: SessionRequest, num_tokens: int) -> ClusterEvent:
    text = f"The answer to {request.source} has ended after {counted(num_tokens, 'tokens')}."
    return ClusterEvent("session ended", text, source=request.source, num_tokens=num_tokens)


def broke_off(request: SessionRequest, num_tokens: int, why: str) -> ClusterEvent:
    text = f"The answer to {request.source} has broken off: {why}"
    return ClusterEvent("session broke off", text, source=request.source, num_tokens=num_tokens)
