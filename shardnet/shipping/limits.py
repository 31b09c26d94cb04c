"""What a device gives for weights that it fetches."""

from __future__ import annotations

from typing import NamedTuple


class FetchLimits(NamedTuple):
    """Of one device."""

    cache_bytes: int | None = None
    """Of its disk, for what it has fetched; None leaves it to what is free there."""
    bytes_per_s: float | None = None
    """Of its link; None for as fast as it goes."""


NO_LIMITS = FetchLimits()
