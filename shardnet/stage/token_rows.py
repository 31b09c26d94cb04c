"""Tokens of several sessions, read from all blocks of their caches at once, and written to others.

One operation for each block and stretch of memory, not for each session: while many are decoding, each has a token or
two. A token's numbers are one row: keys, then values, of each of the blocks in order.

Shapes: T tokens, W numbers of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.models.kv import ON_CPU, BlockKV
from shardnet.stage.extent import Extent
from shardnet.stage.session_cache import SessionCache
from shardnet.transport.messages import Part


class _Rows(NamedTuple):
    """Tokens whose rows lie in one extent."""

    extent: Extent
    rows: Tensor
    """Indices [t] of their rows there, where the extent is."""


class Tokens:
    """Some tokens of some sessions, in the order of `parts`, wherever they lie."""

    def __init__(self, parts: Sequence[Part], caches: Sequence[SessionCache]) -> None:
        self._parts = parts
        self._caches = caches
        self._known: dict[tuple[bool, tuple[int, ...]], list[_Rows]] = {}
        """Of blocks that lie together. Only of sessions in stages that have become one do they lie apart."""
        self._num_tokens = sum(part.num_tokens for part in parts)

    def read_blocks(self, blocks: Sequence[BlockKV], dtype: torch.dtype) -> Tensor:
        """A copy of their keys and values [T, W], on the CPU."""
        columns = []
        for block in blocks:
            places = self._places(block.layer)
            columns.append([extent.keys[block.layer][rows].flatten(1) for extent, rows in places])
            columns.append([extent.values[block.layer][rows].flatten(1) for extent, rows in places])
        if not columns or not self._parts:
            return torch.empty(self._num_tokens, width_of(blocks), dtype=dtype)
        return torch.cat([each[0] if len(each) == 1 else torch.cat(each) for each in columns], 1).cpu()

    def write_blocks(self, blocks: Sequence[BlockKV], rows_TW: Tensor) -> None:
        """The same the other way round."""
        first = 0
        for block in blocks:
            places, size = self._places(block.layer), block.num_kv_heads * block.key_dim
            end = first + block.elements_per_token
            keys, values = rows_TW[:, first : first + size], rows_TW[:, first + size : end]
            _write([(extent.keys[block.layer], rows) for extent, rows in places], keys)
            _write([(extent.values[block.layer], rows) for extent, rows in places], values)
            first = end

    def read_sent(self, width: int, dtype: torch.dtype) -> Tensor:
        """A copy of what is kept beside keys and values [T, width]."""
        if not self._parts:
            return torch.empty(0, width, dtype=dtype)
        return torch.cat([extent.kept[rows] for extent, rows in self._places(None)])

    def write_sent(self, rows_TW: Tensor) -> None:
        """The same the other way round."""
        _write([(extent.kept, rows) for extent, rows in self._places(None)], rows_TW)

    def _places(self, layer: int | None) -> list[_Rows]:
        runs = [cache.runs_of(layer) for cache in self._caches]
        key = layer is None, tuple(map(id, runs))
        if key not in self._known:
            self._known[key] = self._look(layer)
        return self._known[key]

    def _look(self, layer: int | None) -> list[_Rows]:
        found: list[tuple[Extent, list[int]]] = []
        for part, cache in zip(self._parts, self._caches, strict=True):
            for extent, places in cache.places(layer, part.position, part.end):
                if not found or found[-1][0] is not extent:
                    found.append((extent, []))
                found[-1][1].extend(range(places.start, places.stop))
        return [
            _Rows(extent, torch.tensor(rows, device=ON_CPU if layer is None else extent.device))
            for extent, rows in found
        ]


def _write(targets: Sequence[tuple[Tensor, Tensor]], numbers: Tensor) -> None:
    """Into some rows [t] of each target [R, ...] those of `numbers` [T, ...] that come next."""
    first = 0
    for target, rows in targets:
        own = numbers[first : first + len(rows)]
        target.index_copy_(0, rows, own.reshape(-1, *target.shape[1:]).to(target.device))
        first += len(rows)


def width_of(blocks: Sequence[BlockKV]) -> int:
    """Numbers of a token in all of them."""
    return sum(block.elements_per_token for block in blocks)
