"""PyTorch's 4-bit product on Arm, whose kernels (KleidiAI) round each row of activations to 8 bits, by its own range.

It knows codes around a middle of 8 and scales, and no minimum. What the middles of the groups stand for is added by a
small product: that of the sums of the row's groups.

Shapes: T rows, K inputs, N outputs, G groups of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from shardnet.quantised.grouped import Grouped
from shardnet.quantised.kernels.kernel import Matrix, Memory, Shape
from shardnet.quantised.schemes import NIBBLES

MIDDLE = 8
STEP = 32
"""Outputs, and inputs, come in multiples of so many."""
TOGETHER = 1024
"""Outputs that are laid out, and multiplied, at a time."""


class Dyn4Bit:
    """`aten._dyn_quant_matmul_4bit`, where it is more than PyTorch's plain loop. Scales and zeros are bfloat16."""

    name = "dyn4bit"
    row_step = TOGETHER

    def suits(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> bool:
        return device.type == "cpu" and self.can_hold(shape) and _is_here()

    def can_hold(self, shape: Shape) -> bool:
        """Whether its layout has room for such a matrix, here or on another processor."""
        form = shape.form
        is_whole = form.group and form.group % STEP == 0 and shape.num_inputs % form.group == 0
        return bool(is_whole) and form.bits == 4 and shape.num_outputs % STEP == 0

    def memory(self, shape: Shape) -> dict[str, Memory]:
        sizes = [_packed_like(stop - first, shape).numel() for first, stop in _parts(shape.num_outputs)]
        return {
            "codes": Memory((sum(sizes),), _packed_like(STEP, shape).dtype),
            "zeros": Memory((shape.num_outputs, shape.num_groups), torch.bfloat16),
        }

    def fill(self, matrix: Matrix, first_row: int, grouped: Grouped) -> None:
        end = first_row + len(grouped.codes)
        matrix.tensors["zeros"][first_row:end] = grouped.minima + MIDDLE * grouped.scales
        for (first, stop), part in _packed_parts(matrix):
            if first_row <= first and stop <= end:
                rows = slice(first - first_row, stop - first_row)
                part.copy_(_packed(grouped.codes[rows], grouped.scales[rows], matrix.shape))

    def product(self, matrix: Matrix, rows: Tensor) -> Tensor:
        shape, wide = matrix.shape, rows.float().contiguous()
        sums = wide.unflatten(1, (shape.num_groups, -1)).sum(-1)
        outputs = sums @ matrix.tensors["zeros"].float().t()
        for (first, stop), part in _packed_parts(matrix):
            outputs[:, first:stop] += torch.ops.aten._dyn_quant_matmul_4bit(
                wide, part, shape.form.group, shape.num_inputs, stop - first
            )
        return outputs.to(rows.dtype)

    def can_look_up(self, shape: Shape) -> bool:
        """Its layout is its own."""
        return False

    def look_up(self, matrix: Matrix, indices: Tensor, dtype: torch.dtype) -> Tensor:
        raise NotImplementedError(f"rows cannot be had again from {self.name}")


def _parts(num_outputs: int) -> list[tuple[int, int]]:
    return [(first, min(first + TOGETHER, num_outputs)) for first in range(0, num_outputs, TOGETHER)]


def _packed_parts(matrix: Matrix) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """First and end of the outputs that lie together, and where they lie."""
    begin = 0
    for first, stop in _parts(matrix.shape.num_outputs):
        size = _packed_like(stop - first, matrix.shape).numel()
        yield (first, stop), matrix.tensors["codes"][begin : begin + size]
        begin += size


def _packed(codes: Tensor, scales: Tensor, shape: Shape) -> Tensor:
    pairs = (codes[:, ::2] | (codes[:, 1::2] << 4)).contiguous()
    packed: Tensor = torch.ops.aten._dyn_quant_pack_4bit_weight(
        pairs, scales.bfloat16().contiguous(), None, shape.form.group, shape.num_inputs, len(codes)
    )
    return packed


def _packed_like(num_outputs: int, shape: Shape) -> Tensor:
    """What so many outputs become, without what is in it."""
    return _empty_packed(num_outputs, shape.num_inputs, shape.form.group)


@cache
def _empty_packed(num_outputs: int, num_inputs: int, group: int) -> Tensor:
    shape = Shape(NIBBLES._replace(group=group), num_outputs, num_inputs)
    codes = torch.zeros(num_outputs, num_inputs, dtype=torch.uint8)
    return _packed(codes, torch.zeros(num_outputs, shape.num_groups), shape).to("meta")


@cache
def _is_here() -> bool:
    """Whether this PyTorch has the kernels, and they give what they should; its plain loop keeps codes as floats."""
    try:
        if _empty_packed(STEP, STEP, STEP).dtype != torch.uint8:
            return False
        return gives_what_it_should()
    except (AttributeError, RuntimeError):
        return False


def gives_what_it_should() -> bool:
    """A product whose result is known: a row of ones at a time, which 8 bits round to themselves."""
    shape = Shape(NIBBLES, STEP, 2 * STEP)
    codes = torch.arange(STEP * 2 * STEP).view(STEP, -1).mul_(7).remainder_(16).to(torch.uint8)
    scales = torch.full((STEP, 2), 0.5)
    rows = torch.eye(2 * STEP)
    outputs = torch.ops.aten._dyn_quant_matmul_4bit(rows, _packed(codes, scales, shape), STEP, 2 * STEP, STEP)
    return torch.allclose(outputs, (codes.t().float() - MIDDLE) * 0.5, atol=0.02)
