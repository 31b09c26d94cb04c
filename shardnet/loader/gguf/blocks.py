"""Unpacks the blocks of ggml, exactly: what comes out equals `gguf.dequantize` bit for bit, without that package. And
those of our own (`own_blocks`).

Shapes: B blocks, each of E numbers, G of which share a scale. The layouts:
https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.loader.stored import BLOCKS, OWN_TYPES

MIDDLE = 8
"""The code of our own blocks that stands for 0, or for the number behind the scale."""
ALL_BYTES = 0x0101010101010101
LOW_HALVES = 0x0F * ALL_BYTES


class Unpacked(NamedTuple):
    """Blocks as whole numbers, and what makes floats of them: (code - zero) * scale + minimum."""

    codes: Tensor
    """uint8 [B, E]."""
    scales: Tensor
    """float32 [B, E / G]."""
    zero: int
    minima: Tensor | None
    """float32 [B, E / G]; None: there are none."""

    def floats(self) -> Tensor:
        """float32 [B, E], in the order of ggml's operations, which rounds as it does."""
        values = self.codes.unflatten(1, (self.scales.shape[1], -1)).float()
        if self.zero:
            values.sub_(self.zero)
        values.mul_(self.scales[..., None])
        if self.minima is not None:
            values.add_(self.minima[..., None])
        return values.flatten(1)

    def all_minima(self) -> Tensor:
        """float32 [B, E / G]: minima that stand for the zero, too, so that it is codes * scales + minima."""
        return self.scales * -self.zero if self.minima is None else self.minima


def unpack(kind: str, blocks: Tensor) -> Unpacked:
    """
    Args:
        kind: one of `stored.BLOCK_TYPES`.
        blocks: uint8 [B, bytes of a block].
    """
    return UNPACK[kind](blocks)


def code_bits(kind: str) -> int:
    """Of `Grouped`: 4 where all codes are below 16, else 8."""
    return 4 if kind[1] == "4" else 8


def group_of(kind: str) -> int:
    """G."""
    if kind in OWN_TYPES:
        return BLOCKS[kind][0]
    return 16 if kind == "Q6_K" else 32


def _half(blocks: Tensor, first: int) -> Tensor:
    """The 16-bit float at a byte of each block, as float32 [B, 1]."""
    return blocks[:, first : first + 2].clone().view(torch.float16).float()


def _nibbles(packed: Tensor, run: int) -> Tensor:
    """Low halves of `run` bytes, then their high halves, and so on: [B, n] -> [B, 2n]. Eight bytes at a time."""
    runs = _words(packed, run)
    return torch.cat((runs & LOW_HALVES, (runs >> 4) & LOW_HALVES), dim=1).view(torch.uint8).view(len(packed), -1)


def _high_bits(packed: Tensor, shifts: Sequence[int], mask: int) -> Tensor:
    """What each 32 bytes hold at each of the shifts, one behind the other and above four bits: [B, n * shifts]."""
    runs = _words(packed, 32)
    parts = [((runs >> shift) & mask * ALL_BYTES) << 4 for shift in shifts]
    return torch.cat(parts, dim=1).view(torch.uint8).view(len(packed), -1)


def _words(packed: Tensor, run: int) -> Tensor:
    """Runs of bytes as words of eight: [B, n] -> int64 [B * n / run, 1, run / 8]."""
    copied = packed.clone(memory_format=torch.contiguous_format)
    return copied.view(-1, 1, run).view(torch.int64)


def _fifth_bits(packed: Tensor) -> Tensor:
    """A bit of each of 32 numbers, the first one lowest: [B, 4] -> [B, 32]."""
    return ((packed[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(1)


def _scales_and_minima(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Of K blocks: eight of each, with 6 bits, in 12 bytes behind the two floats by which they are multiplied."""
    scales, minima, high = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat((scales & 63, (high & 15) | ((scales >> 2) & 48)), dim=1)
    minima = torch.cat((minima & 63, (high >> 4) | ((minima >> 2) & 48)), dim=1)
    return _half(blocks, 0) * scales.float(), -(_half(blocks, 2) * minima.float())


def _q4_0(blocks: Tensor) -> Unpacked:
    return Unpacked(_nibbles(blocks[:, 2:], 16), _half(blocks, 0), 8, None)


def _q4_1(blocks: Tensor) -> Unpacked:
    return Unpacked(_nibbles(blocks[:, 4:], 16), _half(blocks, 0), 0, _half(blocks, 2))


def _q5_0(blocks: Tensor) -> Unpacked:
    codes = _nibbles(blocks[:, 6:], 16) | (_fifth_bits(blocks[:, 2:6]) << 4)
    return Unpacked(codes, _half(blocks, 0), 16, None)


def _q5_1(blocks: Tensor) -> Unpacked:
    codes = _nibbles(blocks[:, 8:], 16) | (_fifth_bits(blocks[:, 4:8]) << 4)
    return Unpacked(codes, _half(blocks, 0), 0, _half(blocks, 2))


def _q8_0(blocks: Tensor) -> Unpacked:
    return Unpacked(blocks[:, 2:] ^ 128, _half(blocks, 0), 128, None)  # from two's complement


def _q4_k(blocks: Tensor) -> Unpacked:
    scales, minima = _scales_and_minima(blocks)
    return Unpacked(_nibbles(blocks[:, 16:], 32), scales, 0, minima)


def _q5_k(blocks: Tensor) -> Unpacked:
    scales, minima = _scales_and_minima(blocks)
    codes = _nibbles(blocks[:, 48:], 32) | _high_bits(blocks[:, 16:48], range(8), 1)
    return Unpacked(codes, scales, 0, minima)


def _q6_k(blocks: Tensor) -> Unpacked:
    scales = _half(blocks, 208) * blocks[:, 192:208].clone().view(torch.int8).float()
    codes = _nibbles(blocks[:, :128], 64) | _high_bits(blocks[:, 128:192], range(0, 8, 2), 3)
    return Unpacked(codes, scales, 32, None)


def _n4(blocks: Tensor) -> Unpacked:
    scales, middles = blocks[:, :4].clone().view(torch.bfloat16).float().split(1, 1)
    codes = _nibbles(blocks[:, 4:], blocks.shape[1] - 4)
    return Unpacked(codes, scales, 0, middles - MIDDLE * scales)


def _s4(blocks: Tensor) -> Unpacked:
    scales = blocks[:, :2].clone().view(torch.bfloat16).float()
    return Unpacked(_nibbles(blocks[:, 2:], blocks.shape[1] - 2), scales, MIDDLE, None)


UNPACK: dict[str, Callable[[Tensor], Unpacked]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "Q4_K": _q4_k, "Q5_K": _q5_k,
    "Q6_K": _q6_k, "N4_32": _n4, "N4_64": _n4, "N4_128": _n4, "S4_32": _s4,
}  # fmt: skip
