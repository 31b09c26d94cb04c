"""What shardnet must know of a model family: its units, their weights, and how its blocks are called.

Names are imported when they are first used: which families there are is asked before torch is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .families import family_of, supported_families
    from .kv import BlockKV, Segment, SessionKV
    from .shard import Shard
    from .skeleton import Skeleton, build_skeleton

__all__ = [
    "BlockKV",
    "Segment",
    "SessionKV",
    "Shard",
    "Skeleton",
    "build_skeleton",
    "family_of",
    "supported_families",
]

_HOMES = {
    **dict.fromkeys(("family_of", "supported_families"), "families"),
    **dict.fromkeys(("BlockKV", "Segment", "SessionKV"), "kv"),
    "Shard": "shard",
    **dict.fromkeys(("Skeleton", "build_skeleton"), "skeleton"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
