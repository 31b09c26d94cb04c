"""Products of many rows with half-precision weights, on processors that have no instructions for these.

There, oneDNN turns every number into float32 for each row that meets it, and sixteen rows take a product eight times as
long as one. Here a tile of the weights becomes float32 once, in the cache, and meets all rows. The sums are float32 in
both; how they are rounded on the way differs. One row is left to the kernel that reads the weights as they are.

Shapes: T rows, K features of the input, N of the output.
"""

from __future__ import annotations

import platform
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_ROWS = 12
"""Below it, the tile's conversion costs more than it saves."""
TILE_ELEMENTS = 1 << 18
"""As float32 1 MiB: half of a core's own cache."""


def project(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows [T, K], weight [N, K], bias [N] -> [T, N], as `F.linear`."""
    is_narrow = rows.dtype in (torch.bfloat16, torch.float16) and rows.device.type == "cpu"
    if is_narrow and rows.shape[0] >= LEAST_ROWS and not has_half_instructions():
        return project_in_tiles(rows, weight, bias)
    return F.linear(rows, weight, bias)


def project_in_tiles(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same, some of the weight's rows at a time. Each makes rows of the transposed output: whole lines."""
    num_outputs, num_inputs = weight.shape
    tile_rows = min(max(TILE_ELEMENTS // num_inputs, 16), num_outputs)
    inputs_KT = rows.float().t().contiguous()
    outputs_NT = torch.empty(num_outputs, rows.shape[0])
    tile = torch.empty(tile_rows, num_inputs)
    for first in range(0, num_outputs, tile_rows):
        part = weight[first : first + tile_rows]
        wide = tile[: len(part)].copy_(part)
        torch.mm(wide, inputs_KT, out=outputs_NT[first : first + tile_rows])
    if bias is not None:
        outputs_NT += bias.float()[:, None]
    return torch.empty(rows.shape[0], num_outputs, dtype=rows.dtype).copy_(outputs_NT.t())


@cache
def has_half_instructions() -> bool:
    """Whether the processor multiplies bfloat16 by itself. x86 ones that do not have nothing for float16 either; of
    others it is not known that a tile would pay."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
