"""Shards one behind the other, without stages and network, and how near their logits come to the whole model's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shardnet.models import Segment, Shard
from shardnet.stage.cache import KVCache

TOLERANCE = 1e-4


class Chain:
    """Shards in a row, each with its own caches, as the stages of a pipeline would run them."""

    def __init__(self, shards: Sequence[Shard], capacity: int = 32) -> None:
        self.shards, self.capacity = shards, capacity
        self.caches = [KVCache(shard.kv_layout, shard.kv_row_dtype, device=shard.device) for shard in shards]

    def step(self, tokens: dict[int, Tensor]) -> Tensor:
        """The next tokens of some sessions -> logits [S, V] of each session's last one."""
        row = torch.cat(list(tokens.values()))
        for shard, cache in zip(self.shards, self.caches, strict=True):
            for session in tokens:
                if session not in cache._sessions:
                    cache.open(session, self.capacity)
            row = shard.forward(row, [Segment(cache.get(session), len(ids)) for session, ids in tokens.items()])
            for session, ids in tokens.items():
                cache.advance(session, len(ids))
        return row
