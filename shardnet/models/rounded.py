"""Attention to keys and values of 8 bits, some tokens at a time: never more than a tile of them becomes floats.

Scales and middles stay outside the products: a query times a key is scale * (query . codes) + middle * (sum of the
query). Sums over tiles are those of online softmax (Milakov and Gimelshein, 2018, arXiv:1805.02867), in float32.

Shapes: K key-value heads, M queries of a head (of its group, and of its new tokens), n tokens, d and d' head
dimensions, W and W' bytes of a head. Before K anything may stand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.quantised.kv_rows import apart, decode

TILE = 512
"""Tokens."""


class HeadSizes(NamedTuple):
    """Numbers of a head."""

    key_dim: int
    value_dim: int

    def keys(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """All of them as floats."""
        return decode(rows, self.key_dim, dtype)

    def values(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """All of them as floats."""
        return decode(rows, self.value_dim, dtype)


Hidden = Callable[[int, int], Tensor | None]
"""Of the tokens from the first up to the second number: True [..., M, t] where a query may not look, or None."""


def attend_rounded(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    sizes: HeadSizes,
    hidden: Hidden,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """Query [..., K, M, d] over keys int8 [..., K, n, W] and values int8 [..., K, n, W'] -> [..., K, M, d'].

    Every query sees one token at least.
    """
    num_keys = keys.shape[-2]
    scale = sizes.key_dim**-0.5 if scaling is None else scaling
    wanted = query.float() * scale
    wanted_sums = wanted.sum(-1, keepdim=True)
    shape = (*query.shape[:-1], 1)
    most = wanted.new_full(shape, torch.finfo(torch.float32).min)
    total, seen = wanted.new_zeros(shape), wanted.new_zeros(*query.shape[:-1], sizes.value_dim)
    for first in range(0, num_keys, TILE):
        end = min(first + TILE, num_keys)
        codes, scales, middles = apart(keys[..., first:end, :], sizes.key_dim)
        scores = wanted @ codes.float().transpose(-1, -2)
        scores.mul_(scales[..., None, :]).add_(wanted_sums * middles[..., None, :])
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        out_of_sight = hidden(first, end)
        if out_of_sight is not None:
            scores.masked_fill_(out_of_sight, float("-inf"))
        more = torch.maximum(most, scores.amax(-1, keepdim=True))
        before, weights = torch.exp(most - more), torch.exp_(scores.sub_(more))
        codes, scales, middles = apart(values[..., first:end, :], sizes.value_dim)
        total = total * before + weights.sum(-1, keepdim=True)
        seen = seen * before + (weights * middles[..., None, :]).sum(-1, keepdim=True)
        seen += weights.mul_(scales[..., None, :]) @ codes.float()
        most = more
    return (seen / total).to(query.dtype)
