"""One stretch of time of one stage, as it is kept and as it travels."""

from __future__ import annotations

from typing import NamedTuple

SpanTuple = tuple[str, int, int, int, int, int, str]
"""A span as it travels: the fields of `Span` in order."""


class Span(NamedTuple):
    """One stretch of time of one stage."""

    kind: str
    """`compute`, `wire` (a message on its way to this stage) or `idle` (the compute thread waits)."""
    start_ns: int
    """Of a wire span: when it was sent, on the sender's clock until a `Timeline` has merged it."""
    end_ns: int
    num_tokens: int = 0
    num_sessions: int = 0
    num_bytes: int = 0
    source_device: str = ""

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9
