"""Which kernel holds a matrix: the best of those that were timed for it, else the first that suits it.

Where nothing was timed, candidates are in the order of what was measured on other machines.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shardnet.plan import KernelOrder
from shardnet.quantised.kernels.dyn4bit import Dyn4Bit
from shardnet.quantised.kernels.int4pack import Int4Pack
from shardnet.quantised.kernels.int8pack import Int8Pack, Int8Rows
from shardnet.quantised.kernels.kernel import Kernel, Shape
from shardnet.quantised.kernels.native import InC
from shardnet.quantised.kernels.plain import Plain

KERNELS: tuple[Kernel, ...] = (InC(), Int4Pack(), Dyn4Bit(), Int8Pack(), Int8Rows(), Plain())


def suiting(
    shape: Shape, dtype: torch.dtype, device: torch.device, *, is_looked_up: bool = False
) -> tuple[Kernel, ...]:
    """The kernels that can hold a matrix, and give right results here.

    Args:
        is_looked_up: rows of it are asked for, as an embedding's are.
    """
    found = (kernel for kernel in KERNELS if kernel.suits(shape, dtype, device))
    return tuple(kernel for kernel in found if not is_looked_up or kernel.can_look_up(shape))


def kernel_for(
    shape: Shape,
    dtype: torch.dtype,
    device: torch.device,
    *,
    is_looked_up: bool = False,
    orders: Sequence[KernelOrder] = (),
) -> Kernel | None:
    """None where no kernel can do it: the matrix stays in floats then.

    Args:
        is_looked_up: as for `suiting`.
        orders: what was timed on this device, by matrix.
    """
    matrix = (*shape.form.layout, shape.num_outputs, shape.num_inputs)
    names = next((order.kernels for order in orders if order[:-1] == matrix), ())
    place = {name: index for index, name in enumerate(names)}
    kernels = suiting(shape, dtype, device, is_looked_up=is_looked_up)
    return min(kernels, key=lambda kernel: place.get(kernel.name, len(place)), default=None)
