"""What a link session has done, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counts:
    """Of one end, from its beginning."""

    num_connections: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    """Of data on its streams."""
    sent_again_bytes: int = 0
    """Of frames, because a connection broke."""
