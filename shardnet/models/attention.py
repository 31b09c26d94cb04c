"""Ragged attention: the new tokens of many sessions are one row, each session attends to its own cache.

Stock transformers blocks call `past_key_values.update` and hand what it returns to a function registered with
`transformers.AttentionInterface`. Here `update` appends to every session's cache and returns the `RaggedKV` itself, and
`attend` takes each session's keys from it: nothing is global, and nothing is padded.

Shapes: H query heads, K key-value heads, G = H / K, T new tokens of all sessions, t of one, n in all, d head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from shardnet.models.kv import Segment

IMPLEMENTATION = "shardnet"


class RaggedKV:
    """The caches of the sessions of one step, in the place of a transformers `Cache`."""

    __slots__ = ("_masks", "_windows", "keys", "segments", "values", "window")

    def __init__(self, segments: Sequence[Segment], windows: Mapping[int, int | None]) -> None:
        self.segments = segments
        self._windows = windows
        self.window: int | None = None
        """How far the block that appended last looks back."""
        self.keys: list[Tensor] = []
        """Of each session [K, n, d], for the block that appended last."""
        self.values: list[Tensor] = []
        self._masks: dict[tuple[int, int, int], Tensor] = {}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object, **__: object) -> tuple[RaggedKV, RaggedKV]:
        """Append keys and values [1, K, T, d] of all sessions."""
        segments = self.segments
        self.window = self._windows[layer]
        if len(segments) == 1:
            keys, values = segments[0].kv.append(layer, key[0], value[0])
            self.keys, self.values = [keys], [values]
            return self, self
        sizes = [segment.num_tokens for segment in segments]
        self.keys, self.values = [], []
        for segment, new_key, new_value in zip(segments, key[0].split(sizes, 1), value[0].split(sizes, 1), strict=True):
            keys, values = segment.kv.append(layer, new_key, new_value)
            self.keys.append(keys)
            self.values.append(values)
        return self, self

    def mask(self, num_tokens: int, num_keys: int, window: int, device: torch.device) -> Tensor:
        """[t, n] True where a query may look: not ahead, less than `window` back. Made once per step and shape."""
        shape = (num_tokens, num_keys, window)
        if shape not in self._masks:
            behind = torch.arange(num_keys - num_tokens, num_keys, device=device)[:, None]
            behind = behind - torch.arange(num_keys, device=device)
            self._masks[shape] = (behind >= 0) & (behind < window)
        return self._masks[shape]


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: RaggedKV,
    value: RaggedKV,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Query [1, H, T, d] against each session's own cache -> [1, T, H, d]. Registered with `AttentionInterface`.

    What the module says of a window is left aside, as transformers' own attention does; see `windows`.
    """
    if len(key.segments) == 1:
        return _attend_one(query, key, 0, scaling, softcap), None
    outputs = [
        _attend_one(part, key, index, scaling, softcap)
        for index, part in enumerate(query.split([segment.num_tokens for segment in key.segments], 2))
    ]
    return torch.cat(outputs, 1), None


def _attend_one(query: Tensor, kv: RaggedKV, index: int, scaling: float | None, softcap: float | None) -> Tensor:
    """Query [1, H, t, d] of one session -> [1, t, H, d]."""
    keys, values, window = kv.keys[index], kv.values[index], kv.window
    num_kv_heads, num_keys, head_dim = keys.shape
    num_tokens = query.shape[2]
    if window is not None and num_keys >= window + num_tokens:
        first = num_keys - (window + num_tokens - 1)
        keys, values, num_keys = keys[:, first:], values[:, first:], num_keys - first
    if num_tokens == 1:
        # The heads of a group share a key: they become the rows of one query; nothing is repeated, nothing masked.
        query = query.reshape(1, num_kv_heads, -1, head_dim)
        if softcap is None:
            out = F.scaled_dot_product_attention(query, keys[None], values[None], scale=scaling)
        else:
            out = _attend_capped(query, keys[None], values[None], None, scaling, softcap)
        return out.reshape(1, 1, -1, out.shape[-1])
    group = query.shape[1] // num_kv_heads
    query = query.reshape(num_kv_heads, group, num_tokens, head_dim)
    keys = keys[:, None].expand(-1, group, -1, -1)  # stride 0: no copy
    values = values[:, None].expand(-1, group, -1, -1)
    causal = num_tokens == num_keys and (window is None or num_keys <= window)
    mask = None if causal else kv.mask(num_tokens, num_keys, window or num_keys, query.device)
    if softcap is not None:
        mask = kv.mask(num_tokens, num_keys, window or num_keys, query.device)
        out = _attend_capped(query, keys, values, mask, scaling, softcap)
    else:
        out = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=causal, scale=scaling)
    return out.reshape(1, num_kv_heads * group, num_tokens, -1).transpose(1, 2)


def _attend_capped(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float | None, softcap: float
) -> Tensor:
    """Attention with soft-capped scores (Gemma 2), which no fused kernel of torch's offers on a CPU."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.tanh(torch.matmul(query, keys.transpose(-1, -2)) * scale / softcap) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.matmul(torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype), values)


def register_attention() -> None:
    """Make `attend` known to transformers. Harmless when repeated."""
    from transformers import AttentionInterface

    AttentionInterface.register(IMPLEMENTATION, attend)
