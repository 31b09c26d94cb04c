"""Which kernel holds a matrix: the first that suits it. Candidates are in the order of what was measured."""

from __future__ import annotations

import torch

from shardnet.quantised.kernels.int4pack import Int4Pack
from shardnet.quantised.kernels.int8pack import Int8Pack, Int8Rows
from shardnet.quantised.kernels.kernel import Kernel, Shape
from shardnet.quantised.kernels.plain import Plain

KERNELS: tuple[Kernel, ...] = (Int4Pack(), Int8Pack(), Int8Rows(), Plain())


def kernel_for(shape: Shape, dtype: torch.dtype, device: torch.device) -> Kernel | None:
    """None where no kernel can do it: the matrix stays in floats then."""
    return next((kernel for kernel in KERNELS if kernel.suits(shape, dtype, device)), None)
