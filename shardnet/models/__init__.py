"""What shardnet must know of a model family: its units, their weights, and how its blocks are called."""

from .families import family_of, supported_families
from .kv import BlockKV, Segment, SessionKV
from .shard import Shard
from .skeleton import Skeleton, build_skeleton
from .weightless import weightless

__all__ = [
    "BlockKV",
    "Segment",
    "SessionKV",
    "Shard",
    "Skeleton",
    "build_skeleton",
    "family_of",
    "supported_families",
    "weightless",
]
