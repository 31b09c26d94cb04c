"""What a stage holds and did, as a model's `report` gives it, and what all of them did and when, as it travels."""

from __future__ import annotations

from dataclasses import dataclass

from shardnet.timeline.history import History
from shardnet.timeline.spans import SpanTuple


@dataclass(frozen=True)
class StageReport:
    """What a stage holds and did. Seconds and bytes; the three shares add up to 1."""

    device: str
    first_unit: int
    last_unit: int
    weight_bytes: int
    bytes_read: int
    """Bytes that were read from the checkpoint."""
    kv_reserved_bytes: int
    peak_rss_bytes: int
    """The most memory that the device's process has held."""
    compute_s: float
    wire_s: float
    idle_s: float
    num_steps: int
    num_tokens: int
    compute_share: float
    wire_share: float
    idle_share: float
    sent_as: str
    """In what its hidden states go to the next one, where that is not the model's own dtype; else ''."""


@dataclass(frozen=True)
class Track:
    """The spans of one stage, on the coordinator's clock."""

    device: str
    stage: int
    spans: tuple[SpanTuple, ...]
    num_dropped: int
    """So many of its oldest spans are lost."""


@dataclass(frozen=True)
class TimelineRecord:
    """A whole timeline."""

    tracks: tuple[Track, ...]
    history: History | None
