"""PyTorch's own 8-bit products on a CPU: a scale for each output; activations as they are, or rounded to 8 bits, too.

Shapes: T rows, K inputs, N outputs.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from shardnet.quantised.grouped import Grouped
from shardnet.quantised.kernels.kernel import TILE_ELEMENTS, Matrix, Memory, Shape
from shardnet.quantised.schemes import BYTES, BYTES_BY_BYTES

MIDDLE = 128
MOST = 127
MANY_ROWS = 24
"""From so many on a tile that becomes floats is faster."""
_TINY = torch.finfo(torch.float32).tiny


class _Bytes:
    """The layout of both."""

    row_step = 1

    def memory(self, shape: Shape) -> dict[str, Memory]:
        return {
            "codes": Memory((shape.num_outputs, shape.num_inputs), torch.int8),
            "scales": Memory((shape.num_outputs,), torch.bfloat16),
        }

    def fill(self, matrix: Matrix, first_row: int, grouped: Grouped) -> None:
        rows = slice(first_row, first_row + len(grouped.codes))
        matrix.tensors["codes"][rows] = (grouped.codes.short() - MIDDLE).to(torch.int8)
        matrix.tensors["scales"][rows] = grouped.scales[:, 0]

    def can_look_up(self, shape: Shape) -> bool:
        return True

    def look_up(self, matrix: Matrix, indices: Tensor, dtype: torch.dtype) -> Tensor:
        codes, scales = matrix.tensors["codes"], matrix.tensors["scales"]
        return (codes[indices].float() * scales[indices, None].float()).to(dtype)


class Int8Pack(_Bytes):
    """`aten._weight_int8pack_mm`: activations as they are, in bfloat16: in float32 it takes seven times as long."""

    name = "int8pack"

    def suits(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> bool:
        return shape.form == BYTES and dtype == torch.bfloat16 and device.type == "cpu" and _has_int8pack()

    def product(self, matrix: Matrix, rows: Tensor) -> Tensor:
        codes, scales = matrix.tensors["codes"], matrix.tensors["scales"]
        if len(rows) < MANY_ROWS:
            product: Tensor = torch.ops.aten._weight_int8pack_mm(rows, codes, scales)
            return product
        outputs = rows.new_empty(len(rows), len(codes))
        step = max(TILE_ELEMENTS // codes.shape[1], 1)
        for first in range(0, len(codes), step):
            tile = slice(first, first + step)
            outputs[:, tile] = (rows @ codes[tile].to(rows.dtype).t()).mul_(scales[tile])
        return outputs


class Int8Rows(_Bytes):
    """`aten._int_mm`: each row of activations is rounded to 8 bits, by its own greatest number."""

    name = "int8 by int8"

    def suits(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> bool:
        return shape.form == BYTES_BY_BYTES and device.type == "cpu" and _has_int_mm()

    def product(self, matrix: Matrix, rows: Tensor) -> Tensor:
        wide = rows.float()
        steps = (wide.abs().amax(1, keepdim=True) / MOST).clamp_(min=_TINY)
        rounded = (wide / steps).round_().to(torch.int8)
        sums = torch._int_mm(rounded, matrix.tensors["codes"].t()).float()
        return sums.mul_(steps).mul_(matrix.tensors["scales"]).to(rows.dtype)


@cache
def _has_int8pack() -> bool:
    """Whether this PyTorch has the operator, and it gives what it should."""
    rows, codes = torch.eye(32, dtype=torch.bfloat16), torch.arange(-32, 32, dtype=torch.int8).repeat(16, 1)[:, :32]
    try:
        product = torch.ops.aten._weight_int8pack_mm(rows, codes.contiguous(), torch.full((16,), 0.5).bfloat16())
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(product.float(), codes.t() * 0.5)


@cache
def _has_int_mm() -> bool:
    codes = torch.arange(-32, 32, dtype=torch.int8).repeat(16, 1)[:, :32].contiguous()
    try:
        return torch.equal(torch._int_mm(torch.eye(32, dtype=torch.int8), codes.t()), codes.t().int())
    except (AttributeError, RuntimeError):
        return False
