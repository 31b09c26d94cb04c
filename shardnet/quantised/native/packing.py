"""A weight in the layout of the products: see the beginning of `products.c`.

Shapes: N outputs, K inputs, G inputs of a group.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.quantised.grouped import Grouped

TILE = 16
"""Outputs that lie together."""
_TILES_AT_ONCE = 64
"""While a weight is packed, so that it is never there a third time."""


class Packed(NamedTuple):
    """A weight [N, K] as blocks of bytes."""

    blocks: Tensor
    """uint8 [tiles, K / G, bytes of a block]."""
    num_outputs: int
    """N; the last tile is filled up with zeros."""
    num_inputs: int
    """K."""
    group: int
    """G."""
    bits: int
    unit: float
    """By which scales and minima are multiplied, a power of two: in float16 they are exact for numbers of 11 bits."""

    @property
    def num_bytes(self) -> int:
        """Of its blocks."""
        tiles = -(-self.num_outputs // TILE)
        return tiles * (self.num_inputs // self.group) * block_bytes(self.group, self.bits)


def block_bytes(group: int, bits: int) -> int:
    """Of a group of 16 outputs: scales and minima in 16 bits, and the codes."""
    return 4 * TILE + group * bits * TILE // 8


def why_not(num_inputs: int, group: int, bits: int) -> str | None:
    """Why weights of this shape cannot be packed, as a part of a sentence; None where they can."""
    if bits not in (4, 8):
        return f"weights have 4 or 8 bits, and not {bits}"
    if num_inputs % 32:
        return f"inputs come in groups of 32, of which {num_inputs} is no multiple"
    if num_inputs % group or (group % 32 and (bits, group) != (8, 16)):
        return f"groups are multiples of 32 (or 16 with 8 bits), and not {group}"
    return None


def pack(weight: Grouped) -> Packed:
    """Lay it out. Scales and minima are rounded to 11 bits: exact for those of GGUF's types with one scale a group.

    Raises:
        ValueError: its shape does not allow it, or it has a scale or minimum that is no finite number.
    """
    num_outputs, num_inputs = weight.codes.shape
    if reason := why_not(num_inputs, weight.group, weight.bits):
        raise ValueError(f"This weight cannot be packed: {reason}.")
    exponent = _exponent(weight)
    tiles = -(-num_outputs // TILE)
    blocks = torch.zeros(tiles, num_inputs // weight.group, block_bytes(weight.group, weight.bits), dtype=torch.uint8)
    for first in range(0, tiles, _TILES_AT_ONCE):
        rows = slice(first * TILE, (first + _TILES_AT_ONCE) * TILE)
        some = Grouped(weight.codes[rows], weight.scales[rows], weight.minima[rows], weight.bits)
        _pack_into(blocks[first : first + _TILES_AT_ONCE], some, exponent)
    return Packed(blocks, num_outputs, num_inputs, weight.group, weight.bits, 2.0**-exponent)


def _exponent(weight: Grouped) -> int:
    """Of the power of two that brings the largest scale or minimum close below what float16 can hold."""
    largest = max(float(weight.scales.abs().amax()), float(weight.minima.abs().amax()))
    if not math.isfinite(largest):
        raise ValueError("This weight has a scale or minimum that is not a finite number.")
    return max(-96, min(96, 15 - math.frexp(largest)[1]))


def _pack_into(blocks: Tensor, weight: Grouped, exponent: int) -> None:
    tiles, num_groups, _ = blocks.shape
    scales, minima = (
        _by_tile(torch.ldexp(each, torch.tensor(exponent)), tiles) for each in (weight.scales, weight.minima)
    )
    blocks[..., : 2 * TILE] = scales.transpose(1, 2).half().contiguous().view(torch.uint8)
    blocks[..., 2 * TILE : 4 * TILE] = minima.transpose(1, 2).half().contiguous().view(torch.uint8)
    codes = _by_tile(weight.codes, tiles)
    if weight.bits == 4:
        halves = codes.view(tiles, TILE, -1, 2, 4, 4)
        codes = halves[:, :, :, 0] | halves[:, :, :, 1] << 4
    fours = codes.reshape(tiles, TILE, -1, 4).transpose(1, 2)
    blocks[..., 4 * TILE :] = fours.reshape(tiles, num_groups, -1)


def _by_tile(rows: Tensor, tiles: int) -> Tensor:
    """[N, any] as [tiles, 16, any], filled up with zeros."""
    filled = torch.zeros(tiles * TILE, rows.shape[1], dtype=rows.dtype)
    filled[: rows.shape[0]] = rows
    return filled.view(tiles, TILE, -1)
