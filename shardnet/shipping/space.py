"""Which fetched tensors go so that others have room on the disk. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Kept(NamedTuple):
    """A tensor on the disk."""

    root: str
    num_bytes: int
    """That it takes there now."""
    used_s: float
    """When it was last used, by any clock."""


def to_remove(kept: Iterable[Kept], lacking_bytes: int) -> list[str] | None:
    """The roots of those that were used least lately, as few as give so many bytes; None where all would not.

    Args:
        kept: what may go.
    """
    gone: list[str] = []
    for each in sorted(kept, key=lambda each: each.used_s):
        if lacking_bytes <= 0:
            break
        gone.append(each.root)
        lacking_bytes -= each.num_bytes
    return gone if lacking_bytes <= 0 else None
