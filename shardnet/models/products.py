"""Products of many rows with half-precision weights, on processors that have no instructions for these.

There, oneDNN turns every number into float32 for each row that meets it, and sixteen rows take a product five times as
long as one. Here a tile of the weights becomes float32 once, in the cache, and meets all rows. The sums are float32 in
both; how they are rounded on the way differs. Up to three rows are left to the kernel that reads the weights as they
are.

Shapes: T rows, K features of the input, N of the output.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_ROWS = 4
"""Below it, the tile's conversion costs more than it saves."""
MANY_ROWS = 16
"""From so many rows on a tile is faster from the left."""
TILE_ELEMENTS = 1 << 18
"""As float32 1 MiB: half of a core's own cache."""


def project(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows [T, K], weight [N, K], bias [N] -> [T, N], as `F.linear`."""
    is_narrow = rows.dtype in (torch.bfloat16, torch.float16) and rows.device.type == "cpu"
    if is_narrow and rows.shape[0] >= LEAST_ROWS and not has_half_instructions():
        return project_in_tiles(rows, weight, bias)
    return F.linear(rows, weight, bias)


def project_in_tiles(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same, some of the weight's rows at a time."""
    wide = rows.float()
    outputs = _from_left(wide, weight) if len(rows) >= MANY_ROWS else _from_right(wide, weight)
    if bias is not None:
        outputs += bias.float()
    return torch.empty(outputs.shape, dtype=rows.dtype).copy_(outputs)


def _from_right(rows: Tensor, weight: Tensor) -> Tensor:
    """Rows times a tile: some columns of the output."""
    outputs = torch.empty(len(rows), len(weight))
    for first, tile in _wide_tiles(weight):
        torch.mm(rows, tile.t(), out=outputs[:, first : first + len(tile)])
    return outputs


def _from_left(rows: Tensor, weight: Tensor) -> Tensor:
    """A tile times rows: some rows of the transposed output, which are whole lines of memory."""
    columns = rows.t().contiguous()
    outputs = torch.empty(len(weight), len(rows))
    for first, tile in _wide_tiles(weight):
        torch.mm(tile, columns, out=outputs[first : first + len(tile)])
    return outputs.t()


def _wide_tiles(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Some rows of the weight at a time in float32, with the number of the first; each in the memory of the last."""
    num_outputs, num_inputs = weight.shape
    tile_rows = min(max(TILE_ELEMENTS // num_inputs, 16), num_outputs)
    memory = torch.empty(tile_rows, num_inputs)
    for first in range(0, num_outputs, tile_rows):
        part = weight[first : first + tile_rows]
        yield first, memory[: len(part)].copy_(part)


@cache
def has_half_instructions() -> bool:
    """Whether the processor multiplies bfloat16 by itself. x86 ones that do not have nothing for float16 either; of
    others it is not known that a tile would pay."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
