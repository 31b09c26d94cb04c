"""PyTorch's own 4-bit product on a CPU: weights in groups, activations in bfloat16. Many rows go another way.

For many rows it takes its time row by row, and a tile of the weights that becomes bfloat16 once is faster. The layout
is read back for that: it is no public one, so it is looked at once, and where it is another one than is known here, all
rows go through the product.

Shapes: T rows, K inputs, N outputs.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from shardnet.quantised.grouped import Grouped
from shardnet.quantised.kernels.kernel import TILE_ELEMENTS, Matrix, Memory, Shape

GROUPS = (32, 64, 128, 256)
MIDDLE = 8
"""The operator takes the value of this code for its zero."""
STEP = 16
BLOCK = 64
"""Outputs that lie side by side where the processor has AVX-512."""
MANY_ROWS = 96
"""From so many on a tile is faster."""


class Int4Pack:
    """`aten._weight_int4pack_mm_for_cpu`. Scales and zeros are bfloat16: with others it is 50 times slower."""

    name = "int4pack"
    row_step = BLOCK

    def suits(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> bool:
        form = shape.form
        fits = shape.num_outputs % STEP == 0 and form.group in GROUPS and shape.num_inputs % form.group == 0
        return fits and form.bits == 4 and dtype == torch.bfloat16 and device.type == "cpu" and _is_here()

    def memory(self, shape: Shape) -> dict[str, Memory]:
        return {
            "codes": Memory((shape.num_outputs, shape.num_inputs // 2), torch.uint8),
            "scales_and_zeros": Memory((shape.num_groups, shape.num_outputs, 2), torch.bfloat16),
        }

    def fill(self, matrix: Matrix, first_row: int, grouped: Grouped) -> None:
        end = first_row + len(grouped.codes)
        matrix.tensors["codes"][first_row:end] = _packed(grouped.codes)
        numbers = matrix.tensors["scales_and_zeros"][:, first_row:end]
        numbers[..., 0] = grouped.scales.t()
        numbers[..., 1] = (grouped.minima + MIDDLE * grouped.scales).t()

    def product(self, matrix: Matrix, rows: Tensor) -> Tensor:
        tensors = matrix.tensors
        if len(rows) >= MANY_ROWS and self.can_look_up(matrix.shape):
            return _in_tiles(matrix, rows)
        outputs: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, tensors["codes"], matrix.shape.form.group, tensors["scales_and_zeros"]
        )
        return outputs

    def can_look_up(self, shape: Shape) -> bool:
        """Whether it knows where a row lies."""
        return shape.num_outputs % BLOCK == 0 and _is_in_blocks()

    def look_up(self, matrix: Matrix, indices: Tensor, dtype: torch.dtype) -> Tensor:
        _, num_outputs, num_inputs = matrix.shape
        blocks = matrix.tensors["codes"].view(num_outputs // BLOCK, num_inputs, BLOCK // 2)
        place = indices % BLOCK
        bytes_TK = blocks[indices // BLOCK, :, place % (BLOCK // 2)]
        codes = torch.where((place < BLOCK // 2)[:, None], bytes_TK & 15, bytes_TK >> 4)
        scales, zeros = matrix.tensors["scales_and_zeros"][:, indices].float().unbind(-1)
        groups = codes.view(len(indices), matrix.shape.num_groups, -1).float()
        rows = (groups - MIDDLE) * scales.t()[..., None] + zeros.t()[..., None]
        return rows.flatten(1).to(dtype)


def _in_tiles(matrix: Matrix, rows: Tensor) -> Tensor:
    """The same, some outputs at a time: their weights become bfloat16 in the cache."""
    _, num_outputs, num_inputs = matrix.shape
    num_blocks, num_groups = num_outputs // BLOCK, matrix.shape.num_groups
    codes = matrix.tensors["codes"].view(num_blocks, num_inputs, BLOCK // 2).transpose(0, 1)
    numbers = matrix.tensors["scales_and_zeros"]
    step = max(TILE_ELEMENTS // (num_inputs * BLOCK), 1)
    outputs = rows.new_empty(len(rows), num_outputs)
    for first in range(0, num_blocks, step):
        tile = codes[:, first : first + step]
        wide = torch.empty(num_inputs, tile.shape[1], 2, BLOCK // 2, dtype=rows.dtype)
        wide[:, :, 0] = tile & 15
        wide[:, :, 1] = tile >> 4
        columns = slice(first * BLOCK, (first + tile.shape[1]) * BLOCK)
        scales, zeros = numbers[:, None, columns].unbind(-1)
        groups = wide.view(num_groups, -1, tile.shape[1] * BLOCK)
        groups.sub_(MIDDLE).mul_(scales).add_(zeros)
        outputs[:, columns] = rows @ groups.view(num_inputs, -1)
    return outputs


def _packed(codes: Tensor) -> Tensor:
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    return packed


@cache
def _is_here() -> bool:
    """Whether this PyTorch has the operator, and it gives what it should."""
    try:
        codes = torch.arange(STEP * GROUPS[0]).view(STEP, -1).mul_(7).remainder_(16)
        numbers = torch.tensor([0.5, 2.0], dtype=torch.bfloat16).expand(1, STEP, 2).contiguous()
        rows = torch.eye(GROUPS[0], dtype=torch.bfloat16)
        outputs = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, _packed(codes), GROUPS[0], numbers)
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(outputs.float(), (codes.t() - MIDDLE) * 0.5 + 2.0)


@cache
def _is_in_blocks() -> bool:
    """Whether outputs d and d + 32 of each 64 share a byte, input by input."""
    codes = torch.arange(BLOCK)[:, None].add(torch.arange(4) * 5).remainder_(16)
    low, high = codes.t().chunk(2, 1)
    return torch.equal(_packed(codes).view(-1), (low | (high << 4)).to(torch.uint8).reshape(-1))
