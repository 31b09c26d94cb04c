"""A weight in the layout of the products: see the beginning of `products.c`.

Shapes: N outputs, K inputs, G inputs of a group.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.quantised.grouped import Grouped

TILE = 16
"""Outputs that lie together."""
_TILES_AT_ONCE = 64
"""While a weight is packed, so that it is never there a third time."""
_TOP, _MOST_POWER = 15, 96
"""The largest scale or minimum of a tile is brought to between 2**14 and 2**15, near the most of float16, but by no
more than 2**96."""


class Packed(NamedTuple):
    """A weight [N, K] as blocks of bytes."""

    blocks: Tensor
    """uint8 [tiles, K / G, bytes of a block]; what is behind the last output is zeros."""
    units: Tensor
    """float32 [tiles]: powers of two, by which the scales and minima of a tile are multiplied."""
    num_outputs: int
    """N."""
    num_inputs: int
    """K."""
    group: int
    """G."""
    bits: int


def why_not(num_inputs: int, group: int, bits: int) -> str | None:
    """Why weights of this shape cannot be packed, as a part of a sentence; None where they can."""
    if bits not in (4, 8):
        return f"weights have 4 or 8 bits, and not {bits}"
    if num_inputs % 32:
        return f"inputs come in groups of 32, of which {num_inputs} is no multiple"
    if num_inputs % group or (group % 32 and (bits, group) != (8, 16)):
        return f"groups are multiples of 32 (or 16 with 8 bits), and not {group}"
    return None


def block_bytes(group: int, bits: int) -> int:
    """Of a group of 16 outputs: scales and minima in 16 bits, and the codes."""
    return 4 * TILE + group * bits * TILE // 8


def blocks_shape(num_outputs: int, num_inputs: int, group: int, bits: int) -> tuple[int, int, int]:
    """Of `Packed.blocks`."""
    return -(-num_outputs // TILE), num_inputs // group, block_bytes(group, bits)


def no_weight(num_outputs: int, num_inputs: int, group: int, bits: int) -> Packed:
    """Room for a weight, to be filled.

    Raises:
        ValueError: its shape does not allow it.
    """
    if reason := why_not(num_inputs, group, bits):
        raise ValueError(f"This weight cannot be packed: {reason}.")
    shape = blocks_shape(num_outputs, num_inputs, group, bits)
    return Packed(torch.zeros(shape, dtype=torch.uint8), torch.ones(shape[0]), num_outputs, num_inputs, group, bits)


def pack(weight: Grouped) -> Packed:
    """Lay it out.

    Raises:
        ValueError: as `no_weight` and `fill`.
    """
    num_outputs, num_inputs = weight.codes.shape
    packed = no_weight(num_outputs, num_inputs, weight.group, weight.bits)
    fill(packed, 0, weight)
    return packed


def fill(packed: Packed, first_row: int, weight: Grouped) -> None:
    """Lay some outputs out. Scales and minima are rounded to 11 bits: exact for GGUF's types with one scale a group.

    Args:
        first_row: of these outputs, a multiple of 16; only the last of a weight may be fewer than another multiple.

    Raises:
        ValueError: it has a scale or minimum that is no finite number.
    """
    assert first_row % TILE == 0 and weight.bits == packed.bits and weight.group == packed.group
    if not bool(weight.scales.isfinite().all() and weight.minima.isfinite().all()):
        raise ValueError("This weight has a scale or minimum that is not a finite number.")
    for first in range(0, len(weight.codes), _TILES_AT_ONCE * TILE):
        rows = slice(first, first + _TILES_AT_ONCE * TILE)
        some = Grouped(weight.codes[rows], weight.scales[rows], weight.minima[rows], weight.bits)
        first_tile = (first_row + first) // TILE
        tiles = slice(first_tile, first_tile + -(-len(some.codes) // TILE))
        _fill_tiles(packed.blocks[tiles], packed.units[tiles], some)


def _fill_tiles(blocks: Tensor, units: Tensor, weight: Grouped) -> None:
    tiles, num_groups, _ = blocks.shape
    scales, minima = _by_tile(weight.scales, tiles), _by_tile(weight.minima, tiles)
    largest = torch.maximum(scales.abs().amax((1, 2)), minima.abs().amax((1, 2)))
    powers = (_TOP - largest.frexp().exponent).clamp_(-_MOST_POWER, _MOST_POWER).float()
    units.copy_(torch.exp2(-powers))
    for index, numbers in enumerate((scales, minima)):
        halves = (numbers * torch.exp2(powers)[:, None, None]).transpose(1, 2).half().contiguous()
        blocks[..., 2 * TILE * index : 2 * TILE * (index + 1)] = halves.view(torch.uint8)
    codes = _by_tile(weight.codes, tiles)
    if weight.bits == 4:
        low_and_high = codes.view(tiles, TILE, -1, 2, 4, 4)
        codes = low_and_high[:, :, :, 0] | low_and_high[:, :, :, 1] << 4
    fours = codes.reshape(tiles, TILE, -1, 4).transpose(1, 2)
    blocks[..., 4 * TILE :] = fours.reshape(tiles, num_groups, -1)


def _by_tile(rows: Tensor, tiles: int) -> Tensor:
    """[N, any] as [tiles, 16, any], filled up with zeros."""
    filled = torch.zeros(tiles * TILE, rows.shape[1], dtype=rows.dtype)
    filled[: rows.shape[0]] = rows
    return filled.view(tiles, TILE, -1)
