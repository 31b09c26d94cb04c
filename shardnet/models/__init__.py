"""What shardnet must know of a model family: its units, their weights, and how its blocks are called.

Names are imported when they are first used: which families there are is asked before torch is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardnet.process.first_use import on_first_use

if TYPE_CHECKING:
    from shardnet.models.families import family_of, supported_families
    from shardnet.models.kv import BlockKV, Segment, SessionKV
    from shardnet.models.shard import Shard
    from shardnet.models.skeleton import Skeleton, build_skeleton

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

__getattr__ = on_first_use(
    __name__,
    {
        **dict.fromkeys(("family_of", "supported_families"), "families"),
        **dict.fromkeys(("BlockKV", "Segment", "SessionKV"), "kv"),
        "Shard": "shard",
        **dict.fromkeys(("Skeleton", "build_skeleton"), "skeleton"),
    },
)
