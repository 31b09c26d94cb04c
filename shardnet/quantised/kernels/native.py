"""Products of our own in C, where a compiler is: see `quantised/native`. Activations are rounded to 8 bits in groups.

Shapes: T rows, K inputs, N outputs.
"""

from __future__ import annotations

import sys
from functools import cache

import torch
from torch import Tensor

from shardnet.errors import UsageError
from shardnet.process.cache_folder import cache_folder
from shardnet.quantised.grouped import Grouped
from shardnet.quantised.kernels.kernel import Matrix, Memory, Shape
from shardnet.quantised.native import packing
from shardnet.quantised.native.compiling import WhyNot
from shardnet.quantised.native.packing import Packed
from shardnet.quantised.native.products import STORED, Native, build

FOLDER = "native"
"""In the cache folder."""
PLAIN_C = "plain"


class InC:
    """The same kernel for 4 and 8 bits, in groups or whole rows."""

    name = "native"
    row_step = packing.TILE
    formats = STORED

    def suits(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> bool:
        form = shape.form
        is_layout = packing.why_not(shape.num_inputs, form.group_of(shape.num_inputs), form.bits) is None
        is_dtype = dtype == torch.bfloat16 or form.rounds_activations
        return is_layout and is_dtype and device.type == "cpu" and isinstance(native(), Native)

    def memory(self, shape: Shape) -> dict[str, Memory]:
        blocks = packing.blocks_shape(shape.num_outputs, *_layout(shape))
        return {"blocks": Memory(blocks, torch.uint8), "units": Memory(blocks[:1], torch.float32)}

    def fill(self, matrix: Matrix, first_row: int, grouped: Grouped) -> None:
        packing.fill(packed(matrix), first_row, grouped)

    def fill_as_stored(self, matrix: Matrix, first_row: int, stored: str, rows: Tensor, order: Tensor | None) -> None:
        own = native()
        assert isinstance(own, Native)
        own.pack(packed(matrix), first_row, stored, rows, order)

    def product(self, matrix: Matrix, rows: Tensor) -> Tensor:
        own = native()
        assert isinstance(own, Native)
        return own.product(rows if rows.stride(1) == 1 else rows.contiguous(), packed(matrix))

    def can_look_up(self, shape: Shape) -> bool:
        return True

    def look_up(self, matrix: Matrix, indices: Tensor, dtype: torch.dtype) -> Tensor:
        own = native()
        assert isinstance(own, Native)
        out = torch.empty(len(indices), matrix.shape.num_inputs, dtype=dtype)
        return own.gather(indices.long().contiguous(), packed(matrix), out)


def packed(matrix: Matrix) -> Packed:
    """A matrix as the products take it."""
    tensors, shape = matrix.tensors, matrix.shape
    return Packed(tensors["blocks"], tensors["units"], shape.num_outputs, *_layout(shape))


def _layout(shape: Shape) -> tuple[int, int, int]:
    return shape.num_inputs, shape.form.group_of(shape.num_inputs), shape.form.bits


@cache
def native() -> Native | WhyNot:
    """The products of this process; or why not, as where no compiler is, or a processor that they are slow on."""
    if hasattr(sys, "getandroidapilevel"):
        return WhyNot("Nothing is compiled on phones.")
    try:
        folder = cache_folder() / FOLDER
    except UsageError:
        folder = None
    built = build(folder)
    if isinstance(built, Native) and built.way == PLAIN_C:
        return WhyNot("This processor has none of the instructions that the products in C are fast by.")
    return built
