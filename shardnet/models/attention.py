"""Ragged attention: the new tokens of many sessions are one row, each session attends to its own cache.

Stock transformers blocks call `past_key_values.update` and hand what it returns to a function registered with
`transformers.AttentionInterface`. Here `update` appends to every session's cache and returns the `RaggedKV` itself, and
`attend` takes each session's keys from it: nothing is global. Short sessions with one new token each go in buckets, as
one padded product; in float32 that agrees with a product by itself to rounding. Where keys and values are kept in 8
bits, `update` rounds them, and `rounded` attends to them as they are kept: to those of this step, too, so that it makes
no difference which tokens share one.

Shapes: H query heads, K key-value heads, G = H / K, T new tokens of all sessions, t of one, n in all, d head size, B
sessions of a bucket.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from shardnet.models.buckets import Bucket, buckets_of
from shardnet.models.kv import Segment
from shardnet.models.rounded import HeadSizes, attend_rounded
from shardnet.quantised.kv_rows import encode

IMPLEMENTATION = "shardnet"


class RaggedKV:
    """The caches of the sessions of one step, in the place of a transformers `Cache`.

    Args:
        rounded: the numbers of a head, where they are kept in 8 bits; else None.
    """

    __slots__ = (
        *("_masks", "_windows", "alone", "buckets", "keys", "layer", "rounded", "rows", "segments", "values"),
        "window",
    )

    def __init__(
        self, segments: Sequence[Segment], windows: Mapping[int, int | None], rounded: HeadSizes | None = None
    ) -> None:
        self.segments = segments
        self.rounded = rounded
        self._windows = windows
        self.layer = -1
        """The block that appended last."""
        self.window: int | None = None
        """How far it looks back."""
        self.alone: list[int] = []
        """Indices of the sessions that are in no bucket; after the first `update`."""
        self.buckets: list[Bucket] | None = [] if len(segments) == 1 else None
        self.rows = _rows_of(segments)
        """Which of the step's rows are those of each session: the first, and the one behind the last."""
        self.keys: dict[int, Tensor] = {}
        """Of each session that is alone [K, n, d], for the block that appended last, as they are kept."""
        self.values: dict[int, Tensor] = {}
        self._masks: dict[tuple[int, int, int], Tensor] = {}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object, **__: object) -> tuple[RaggedKV, RaggedKV]:
        """Append keys and values [1, K, T, d] of all sessions."""
        segments = self.segments
        self.layer, self.window = layer, self._windows[layer]
        if self.rounded is not None:
            key, value = encode(key), encode(value)
        if len(segments) == 1:
            self.keys[0], self.values[0] = segments[0].kv.append(layer, key[0], value[0])
            return self, self
        if self.buckets is None:
            self.buckets, self.alone = buckets_of(segments, key.shape[1] * key.shape[3], key.device)
        for bucket in self.buckets:
            for store, new in ((bucket.store.keys, key), (bucket.store.values, value)):
                rows = new[0].transpose(0, 1)
                store[layer].index_copy_(0, bucket.targets, rows if self.is_whole else rows[bucket.order])
        for index in self.alone:
            first, end = self.rows[index]
            new_key, new_value = key[0, :, first:end], value[0, :, first:end]
            self.keys[index], self.values[index] = segments[index].kv.append(layer, new_key, new_value)
        return self, self

    @property
    def is_whole(self) -> bool:
        """Whether one bucket has all the step's rows."""
        return self.buckets is not None and len(self.buckets) == 1 and not self.alone

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
    assert key.buckets is not None
    if key.is_whole:
        return _attend_bucket(query[0].transpose(0, 1), key, key.buckets[0], scaling, softcap)[None], None
    outputs: list[Tensor] = []
    places: list[Tensor] = []
    for bucket in key.buckets:
        outputs.append(_attend_bucket(query[0, :, bucket.order].transpose(0, 1), key, bucket, scaling, softcap))
        places.append(bucket.order)
    for index in key.alone:
        first, end = key.rows[index]
        outputs.append(_attend_one(query[:, :, first:end], key, index, scaling, softcap)[0])
        places.append(torch.arange(first, end, device=query.device))
    joined = torch.cat(outputs)
    return torch.empty_like(joined).index_copy_(0, torch.cat(places), joined)[None], None


def _attend_bucket(query: Tensor, kv: RaggedKV, bucket: Bucket, scaling: float | None, softcap: float | None) -> Tensor:
    """Query [B, H, d] of sessions with one token each -> [B, H, d]."""
    num_sessions, num_heads, head_dim = query.shape
    seen = bucket.seen(kv.window, query.dtype)
    keys, values = (
        store[kv.layer].index_select(0, seen.rows).unflatten(0, (num_sessions, seen.num_keys)).transpose(1, 2)
        for store in (bucket.store.keys, bucket.store.values)
    )
    query = query.reshape(num_sessions, keys.shape[1], -1, head_dim)
    if kv.rounded is not None:
        hidden = None if seen.bias is None else seen.bias != 0
        out = attend_rounded(query, keys, values, kv.rounded, partial(_columns, hidden), scaling, softcap)
    elif softcap is None:
        out = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen.bias, scale=scaling)
    else:
        mask = None if seen.bias is None else seen.bias == 0
        out = _attend_capped(query, keys, values, mask, scaling, softcap)
    return out.reshape(num_sessions, num_heads, -1)


def _attend_one(query: Tensor, kv: RaggedKV, index: int, scaling: float | None, softcap: float | None) -> Tensor:
    """Query [1, H, t, d] of one session -> [1, t, H, d]."""
    keys, values, window = kv.keys[index], kv.values[index], kv.window
    num_kv_heads, num_keys, head_dim = keys.shape
    num_tokens = query.shape[2]
    if window is not None and num_keys >= window + num_tokens:
        first = num_keys - (window + num_tokens - 1)
        keys, values, num_keys = keys[:, first:], values[:, first:], num_keys - first
    if kv.rounded is not None:
        return _attend_one_rounded(query, keys, values, kv, scaling, softcap)
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


def _attend_one_rounded(
    query: Tensor, keys: Tensor, values: Tensor, kv: RaggedKV, scaling: float | None, softcap: float | None
) -> Tensor:
    """The same over keys [K, n, W] and values [K, n, W'] of 8 bits, none of which lies before the first query's
    window.
    """
    assert kv.rounded is not None
    _, num_heads, num_tokens, _ = query.shape
    num_kv_heads, num_keys, _ = keys.shape
    grouped = query.reshape(num_kv_heads, num_heads // num_kv_heads * num_tokens, -1)
    window = kv.window or num_keys

    def hidden(first: int, end: int) -> Tensor | None:
        if num_tokens == 1 or (end <= num_keys - num_tokens + 1 and num_keys - first <= window):
            return None
        return ~kv.mask(num_tokens, num_keys, window, query.device)[:, first:end].repeat(num_heads // num_kv_heads, 1)

    out = attend_rounded(grouped, keys, values, kv.rounded, hidden, scaling, softcap)
    return out.reshape(1, num_heads, num_tokens, -1).transpose(1, 2)


def _columns(hidden: Tensor | None, first: int, end: int) -> Tensor | None:
    return None if hidden is None else hidden[..., first:end]


def _rows_of(segments: Sequence[Segment]) -> list[tuple[int, int]]:
    ends = list(accumulate(segment.num_tokens for segment in segments))
    return list(zip([0, *ends], ends))


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
