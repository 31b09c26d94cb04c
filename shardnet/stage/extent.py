"""Memory for the tokens of many sessions, block by block: a row for each token, mapped when it is made, touched when it
is written, and given back to the system when its session ends. On an accelerator it is taken as a whole, and given back
with the extent.

Shapes: R rows, K key-value heads, d head dimension, W numbers that are kept of a token beside keys and values.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from contextlib import suppress
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.errors import KVMemorySpent
from shardnet.models.kv import ON_CPU, BlockKV
from shardnet.process.compute import is_out_of_memory

ID_BYTES = 8
"""Of a token's id in an array."""


class Kept(NamedTuple):
    """What is kept of each token beside keys and values."""

    width: int
    """Numbers of `dtype` in its row; 0: it has none."""
    dtype: torch.dtype
    num_ids: int
    """These lie elsewhere, and count here."""

    @property
    def bytes_per_token(self) -> int:
        return self.width * self.dtype.itemsize + self.num_ids * ID_BYTES


NOTHING = Kept(0, torch.float32, 0)


class Extent:
    """So many rows in each of the blocks; a session has the same rows in all of them.

    Raises:
        KVMemorySpent: the system gives no more address space.

    Attributes:
        keys: [R, K, d] of each block.
        values: [R, K, d'] of each block.
        kept: [R, W], beside keys and values; on the CPU, wherever these are.
    """

    def __init__(
        self,
        layout: Iterable[BlockKV],
        dtype: torch.dtype,
        num_rows: int,
        kept: Kept = NOTHING,
        device: torch.device = ON_CPU,
    ) -> None:
        self.num_rows = num_rows
        self.device = device
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.keep_as(kept)
        self._maps: dict[int, tuple[_Map | _Taken, _Map | _Taken]] = {}
        self._holes = [(0, num_rows)]
        """First row and number of rows of what is free, in order, no two adjacent."""
        for block in layout:
            key_map = _memory((num_rows, block.num_kv_heads, block.key_dim), dtype, device)
            value_map = _memory((num_rows, block.num_kv_heads, block.value_dim), dtype, device)
            self._maps[block.layer] = key_map, value_map
            self.keys[block.layer], self.values[block.layer] = key_map.tensor, value_map.tensor

    def serves(self, layout: Iterable[BlockKV], kept: Kept) -> bool:
        """Whether there is room for these blocks, and for what is kept beside them."""
        return self.kept.shape[1] == kept.width and all(block.layer in self.keys for block in layout)

    def keep_as(self, kept: Kept) -> None:
        """Have room for this beside keys and values, and forget what was kept there."""
        self._kept_map = _Map((self.num_rows, 1, kept.width), kept.dtype)
        self.kept = self._kept_map.tensor.squeeze(1)

    def remove(self, layer: int) -> None:
        """Free what a block took; nothing where it has none here."""
        self._maps.pop(layer, None)
        self.keys.pop(layer, None)
        self.values.pop(layer, None)

    @property
    def is_unused(self) -> bool:
        return self._holes == [(0, self.num_rows)]

    @property
    def free_bytes(self) -> int:
        """Of keys and values, in rows that nobody has."""
        row_bytes = sum(tensor[:1].nbytes for tensor in (*self.keys.values(), *self.values.values()))
        return row_bytes * sum(size for _, size in self._holes)

    def take(self, num_rows: int) -> int | None:
        """The first of so many rows in a row that are free, and now taken; None where there are none."""
        for first, size in self._holes:
            if size >= num_rows:
                self._cut(first, num_rows)
                return first
        return None

    def take_at(self, first: int, num_rows: int) -> bool:
        """Take just these rows; False where not all of them are free."""
        for hole, size in self._holes:
            if hole == first and size >= num_rows:
                self._cut(first, num_rows)
                return True
        return False

    def give_back(self, first: int, num_rows: int) -> None:
        """Free rows, and the memory of all pages on which nothing else lies now: neighbours may have left before."""
        merged: list[tuple[int, int]] = []
        for hole, size in sorted([*self._holes, (first, num_rows)]):
            if merged and sum(merged[-1]) == hole:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((hole, size))
        self._holes = merged
        hole, size = next(each for each in merged if each[0] <= first < sum(each))
        for one in (self._kept_map, *(one for maps in self._maps.values() for one in maps)):
            one.forget(hole, size)

    def _cut(self, first: int, num_rows: int) -> None:
        """Take rows off the beginning of a hole."""
        index = next(index for index, hole in enumerate(self._holes) if hole[0] == first)
        size = self._holes[index][1]
        self._holes[index : index + 1] = [(first + num_rows, size - num_rows)] if size > num_rows else []


def _memory(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> _Map | _Taken:
    return _Map(shape, dtype) if device.type == "cpu" else _Taken(shape, dtype, device)


class _Taken:
    """A tensor in the memory of an accelerator."""

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        try:
            self.tensor = torch.empty(shape, dtype=dtype, device=device)
        except RuntimeError as cause:
            if not is_out_of_memory(cause):
                raise
            num_bytes = prod(shape) * dtype.itemsize
            raise KVMemorySpent(
                f"{device} gives no {num_bytes / 2**20:.1f} MiB of memory for KV cache. Wait for other sessions to end."
            ) from cause

    def forget(self, first: int, num_rows: int) -> None:
        """It goes as a whole."""


class _Map:
    """A tensor in memory of its own: untouched pages take none, and the map ends with the last view of the tensor."""

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        self._row_bytes = dtype.itemsize * shape[1] * shape[2]
        num_bytes = max(shape[0] * self._row_bytes, 1)
        try:
            self._map = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as cause:
            raise KVMemorySpent(
                f"The system gives no {num_bytes / 2**20:.1f} MiB of addresses for KV cache ({cause.strerror}). "
                "Wait for other sessions to end, or raise the limit of this process's memory (ulimit -v)."
            ) from cause
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            with suppress(OSError):  # of a kernel that has no huge pages
                self._map.madvise(mmap.MADV_NOHUGEPAGE)  # or the first row that is written would take 2 MiB
        count = prod(shape)
        numbers = torch.frombuffer(self._map, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
        self.tensor = numbers.view(shape)

    def forget(self, first: int, num_rows: int) -> None:
        """Return the whole pages within these rows to the system."""
        start = -(-first * self._row_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (first + num_rows) * self._row_bytes // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start:
            self._map.madvise(mmap.MADV_DONTNEED, start, end - start)
