"""The kernel that does every form on every device: some outputs at a time become floats in the cache, and multiply.

Shapes: T rows, K inputs, N outputs, G inputs of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shardnet.quantised.grouped import Grouped
from shardnet.quantised.kernels.kernel import TILE_ELEMENTS, Matrix, Memory, Shape
from shardnet.quantised.schemes import Form

LEAST_ROWS = 16


class Plain:
    """Keeps codes as they are; of 4 bits two in a byte, those of inputs k and k + K / 2.

    Scales, and zeros, which are what the middle codes stand for, are bfloat16: rounding gives such.
    """

    name = "plain"
    row_step = 1

    def suits(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> bool:
        return shape.form.fits(shape.num_inputs)

    def memory(self, shape: Shape) -> dict[str, Memory]:
        numbers = Memory((shape.num_outputs, shape.num_groups), torch.bfloat16)
        num_bytes = shape.num_inputs * shape.form.bits // 8
        return {"codes": Memory((shape.num_outputs, num_bytes), torch.uint8), "scales": numbers, "zeros": numbers}

    def fill(self, matrix: Matrix, first_row: int, grouped: Grouped) -> None:
        rows, codes = slice(first_row, first_row + len(grouped.codes)), grouped.codes
        if grouped.bits == 4:
            low, high = codes.chunk(2, 1)
            codes = low | (high << 4)
        zeros = grouped.minima + 2 ** (grouped.bits - 1) * grouped.scales
        for name, values in (("codes", codes), ("scales", grouped.scales), ("zeros", zeros)):
            matrix.tensors[name][rows] = values.to(matrix.tensors[name].device)

    def product(self, matrix: Matrix, rows: Tensor) -> Tensor:
        outputs = rows.new_empty(len(rows), matrix.shape.num_outputs)
        step = max(TILE_ELEMENTS // matrix.shape.num_inputs, LEAST_ROWS)
        for first in range(0, matrix.shape.num_outputs, step):
            tile = {name: tensor[first : first + step] for name, tensor in matrix.tensors.items()}
            columns = outputs[:, first : first + step]
            columns.copy_(rows @ _floats(matrix.shape.form, tile).to(rows.dtype).t())
        return outputs

    def can_look_up(self, shape: Shape) -> bool:
        return True

    def look_up(self, matrix: Matrix, indices: Tensor, dtype: torch.dtype) -> Tensor:
        picked = {name: tensor.index_select(0, indices) for name, tensor in matrix.tensors.items()}
        return _floats(matrix.shape.form, picked).to(dtype)


def _floats(form: Form, tensors: dict[str, Tensor]) -> Tensor:
    """Some outputs of a matrix, float32."""
    codes, scales, zeros = tensors["codes"], tensors["scales"].float(), tensors["zeros"].float()
    if form.bits == 4:
        codes = torch.cat((codes & 15, codes >> 4), 1)
    groups = codes.unflatten(1, (scales.shape[1], -1)).float()
    return groups.sub_(2 ** (form.bits - 1)).mul_(scales[..., None]).add_(zeros[..., None]).flatten(1)
