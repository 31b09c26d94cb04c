"""Tensors as a GGUF file stores them, into floats in their final memory or into codes and scales, a piece at a time.

Takes a few MiB beside what it fills, whatever the tensor's size. Where rows lie in turns they are put in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from shardnet.loader.gguf.blocks import code_bits, group_of, unpack
from shardnet.loader.stored import BLOCKS, Stored
from shardnet.quantised.grouped import Grouped

PIECE_NUMBERS = 1 << 18
"""About so many at a time; what is made of them meanwhile stays in a processor's cache."""
WORD_BYTES = 8
TORCH_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Read = Callable[[Tensor], None]
"""Fills a flat uint8 tensor with the file's next bytes."""


def read_floats(read: Read, stored: Stored, shape: Sequence[int], target: Tensor) -> None:
    """Fill the flat `target` with the model's numbers, which are rounded from float32 to its dtype.

    Args:
        shape: of the tensor, which `stored.num_bytes` allows.
    """
    if stored.is_turned:  # a whole matrix is there a second time meanwhile
        turned = torch.empty(math.prod(shape))
        read_floats(read, stored._replace(is_turned=False), shape[::-1], turned)
        target.view(*shape).copy_(turned.view(*shape[::-1]).t())
        return
    for rows, num_rows, blocks in _pieces(read, stored, shape):
        values = _floats(stored.kind, blocks)
        if stored.minus_one:
            values.sub_(1)
        _put(target.view(num_rows, -1), rows, values)


def read_grouped(read: Read, stored: Stored, shape: Sequence[int]) -> Grouped:
    """A weight of blocks as whole numbers.

    Args:
        stored: of one of `stored.BLOCK_TYPES`, without minus one.
        shape: [N, K], which `stored.num_bytes` allows; as it lies in the file, where it is turned.
    """
    outputs, inputs = shape
    groups = inputs // group_of(stored.kind)
    codes = torch.empty(outputs, inputs, dtype=torch.uint8)
    scales, minima = torch.empty(2, outputs, groups).unbind()
    for rows, num_rows, blocks in _pieces(read, stored, shape):
        unpacked = unpack(stored.kind, blocks)
        parts = (unpacked.codes, unpacked.scales, unpacked.all_minima())
        for target, values in zip((codes, scales, minima), parts, strict=True):
            _put(target.view(num_rows, -1), rows, values)
    return Grouped(codes, scales, minima, code_bits(stored.kind))


def _floats(kind: str, blocks: Tensor) -> Tensor:
    if kind in TORCH_TYPES:
        return blocks.view(TORCH_TYPES[kind]).float()
    return unpack(kind, blocks).floats()


def _put(target: Tensor, rows: Tensor | slice, values: Tensor) -> None:
    """Rows into their places in the target [rows, numbers], in its dtype."""
    if isinstance(rows, slice):
        target[rows] = values.view(-1, target.shape[1])
        return
    values = values.to(target.dtype).view(-1, target.shape[1])
    if target.shape[1] * target.itemsize % WORD_BYTES == 0:  # rows are put in their places word by word
        target, values = target.view(torch.int64), values.view(torch.int64)
    target[rows] = values


def _pieces(read: Read, stored: Stored, shape: Sequence[int]) -> Iterator[tuple[Tensor | slice, int, Tensor]]:
    """(where these rows belong, how many rows there are in all, their blocks), in the order of the file.

    A row is one of the tensor where these lie in turns, and a block where they do not.
    """
    numbers, block_bytes = BLOCKS[stored.kind]
    width = math.prod(shape[1:]) if stored.heads else numbers
    num_rows = math.prod(shape) // width
    row_bytes = width // numbers * block_bytes
    step = max(PIECE_NUMBERS // width, 1)
    buffer = torch.empty(min(step, num_rows) * row_bytes, dtype=torch.uint8)
    for first in range(0, num_rows, step):
        end = min(first + step, num_rows)
        raw = buffer[: (end - first) * row_bytes]
        read(raw)
        rows = _in_order(first, end, num_rows // stored.heads) if stored.heads else slice(first, end)
        yield rows, num_rows, raw.view(-1, block_bytes)


def _in_order(first: int, end: int, head_rows: int) -> Tensor:
    """Where stored rows first..end-1 belong: those of a head's first half and second half lie in turns."""
    rows = torch.arange(first, end)
    within = rows % head_rows
    return rows - within + within % 2 * (head_rows // 2) + within // 2
