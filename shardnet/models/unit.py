"""One unit of a model with its weights: what a shard consists of, and what goes from one shard to another.

Unit 0 is the embedding with all that comes before the first block, units 1..L are the blocks, unit L+1 is the head.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from shardnet.models.kv import BlockKV


@dataclass(frozen=True, slots=True, eq=False)
class LoadedUnit:
    """The modules of one unit, with real weights."""

    index: int
    modules: dict[str, nn.Module]
    """By the names that the whole transformers model gives them."""
    weights: dict[str, Tensor]
    """By name; one that is tied to another unit's is under that one's name."""
    kv: BlockKV | None
    """What it caches; None for the embedding and the head."""
    window: int | None
    """How many tokens a block sees, its own included; None where it sees all."""
    rotary: nn.Module | None
    """What makes the rotary tables of a block; None where nothing is turned."""
