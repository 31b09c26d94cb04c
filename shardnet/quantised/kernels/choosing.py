"""Which kernel holds a matrix: the first that suits it. Candidates are in the order of what was measured."""

from __future__ import annotations

import torch

from shardnet.quantised.kernels.int4pack import Int4Pack
from shardnet.quantised.kernels.int8pack import Int8Pack, Int8Rows
from shardnet.quantised.kernels.kernel import Kernel, Shape
from shardnet.quantised.kernels.native import InC
from shardnet.quantised.kernels.plain import Plain

KERNELS: tuple[Kernel, ...] = (InC(), Int4Pack(), Int8Pack(), Int8Rows(), Plain())


def kernel_for(shape: Shape, dtype: torch.dtype, device: torch.device, *, is_looked_up: bool = False) -> Kernel | None:
    """None where no kernel can do it: the matrix stays in floats then.

    Args:
        is_looked_up: rows of it are asked for, as an embedding's are.
    """
    suiting = (kernel for kernel in KERNELS if kernel.suits(shape, dtype, device))
    return next((kernel for kernel in suiting if not is_looked_up or kernel.can_look_up(shape)), None)
