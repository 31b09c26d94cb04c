"""Families whose attention is code of their own: BLOOM, Falcon, GPT-J. Their sessions run one after the other.

Each function gives the arguments that such a family's blocks want beside the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shardnet.models.family import causal_mask

if TYPE_CHECKING:  # the table of families is looked at before torch is imported, see `loader.glance`
    from torch import Tensor, nn

    from shardnet.models.kv import SessionKV
    from shardnet.models.rotary import RotaryTables
    from shardnet.models.rounded import HeadSizes


class LoneKV:
    """The cache of one session, in the place of a transformers `Cache`, for attention that wants real tensors.

    Args:
        rounded: the numbers of a head, where they are kept in 8 bits; else None.
    """

    __slots__ = ("kv", "rounded")

    def __init__(self, kv: SessionKV, rounded: HeadSizes | None) -> None:
        self.kv = kv
        self.rounded = rounded

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append [1, K, t, d]; return all, [1, K, n, d]: all of one block become floats, where they are 8 bits."""
        if self.rounded is None:
            keys, values = self.kv.append(layer, key[0], value[0])
            return keys[None], values[None]
        from shardnet.quantised.kv_rows import encode

        keys, values = self.kv.append(layer, encode(key[0]), encode(value[0]))
        return self.rounded.keys(keys, key.dtype)[None], self.rounded.values(values, value.dtype)[None]


def bloom_arguments(rotary: RotaryTables | None, config: Any, hidden: Tensor, positions: Tensor) -> dict[str, Any]:
    import torch
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    seen = torch.ones(1, int(positions[0, -1]) + 1, device=hidden.device)
    return {
        "alibi": build_alibi_tensor(seen, config.n_head, hidden.dtype),
        "attention_mask": causal_mask(hidden, positions),
    }


def falcon_arguments(rotary: RotaryTables | None, config: Any, hidden: Tensor, positions: Tensor) -> dict[str, Any]:
    mask = causal_mask(hidden, positions)
    if not config.alibi:
        assert rotary is not None
        turn = rotary.at(positions, int(positions[0, -1]) + 1)
        return {"alibi": None, "attention_mask": mask, "position_embeddings": turn}
    import torch
    from transformers.models.falcon.modeling_falcon import build_alibi_tensor

    # The way through scaled_dot_product_attention takes the bias from the mask, divided as the scores are.
    seen = torch.ones(1, int(positions[0, -1]) + 1, device=hidden.device, dtype=torch.long)
    alibi = build_alibi_tensor(seen, config.num_attention_heads, hidden.dtype)[None]
    bias = alibi / math.sqrt(config.hidden_size // config.num_attention_heads)
    if mask is not None:
        bias = torch.masked_fill(bias, mask < -1, torch.finfo(hidden.dtype).min)
    return {"alibi": alibi, "attention_mask": bias}


def falcon_kv(config: Any) -> tuple[int, int, int]:
    """Falcon repeats grouped keys before it caches them, so a group's heads are cached apart."""
    heads: int = config.num_attention_heads
    grouped = config.new_decoder_architecture or not config.multi_query
    head_dim = config.hidden_size // heads
    return heads if grouped else 1, head_dim, head_dim


def gptj_arguments(rotary: RotaryTables | None, config: Any, hidden: Tensor, positions: Tensor) -> dict[str, Any]:
    return {"attention_mask": causal_mask(hidden, positions), "position_ids": positions}


def run_alone(
    blocks: Sequence[nn.Module], hidden: Tensor, kv: LoneKV, arguments: dict[str, Any], cache_argument: str
) -> Tensor:
    """Run one session's new tokens [1, t, H] through blocks that return (hidden, attention weights)."""
    arguments[cache_argument] = kv
    for block in blocks:
        hidden = block(hidden, **arguments)[0]
    return hidden
