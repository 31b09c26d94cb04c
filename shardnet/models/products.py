"""Products of many rows with half-precision weights, on processors that have no instructions for these.

There, oneDNN turns every number into float32 for each row that meets it, and sixteen rows take a product five times as
long as one. Here a tile of the weights becomes float32 once, in the cache, and meets all rows. The sums are float32 in
both; how they are rounded on the way differs. Up to three rows are left to the kernel that reads the weights as they
are.

Shapes: T rows, K features of the input, N of the output.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shardnet.quantised.linear import HeldLinear

LEAST_ROWS = 4
"""Below it, the tile's conversion costs more than it saves."""
MANY_ROWS = 16
"""From so many rows on a tile is faster from the left."""
TILE_ELEMENTS = 1 << 18
"""As float32 1 MiB: half of a core's own cache."""


class Projection:
    """A linear layer: weight [N, K], bias [N]. Its tiles are views of the weight, made once."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias
        num_outputs, num_inputs = weight.shape
        tile_rows = min(max(TILE_ELEMENTS // num_inputs, 16), num_outputs)
        self._tiles: Sequence[Tensor] = ()
        if weight.dtype in (torch.bfloat16, torch.float16) and weight.device.type == "cpu":
            self._tiles = weight.detach().split(tile_rows)

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows [T, K] -> [T, N], as `F.linear`."""
        if self._tiles and len(rows) >= LEAST_ROWS and not has_half_instructions():
            return self.in_tiles(rows)
        return F.linear(rows, self.weight, self.bias)

    def in_tiles(self, rows: Tensor) -> Tensor:
        """The same, some of the weight's rows at a time."""
        wide = rows.float()
        outputs = self._from_left(wide) if len(rows) >= MANY_ROWS else self._from_right(wide)
        if self.bias is not None:
            outputs += self.bias.float()
        return torch.empty(outputs.shape, dtype=rows.dtype).copy_(outputs)

    def _from_right(self, rows: Tensor) -> Tensor:
        """Rows times a tile: some columns of the output."""
        outputs = torch.empty(len(rows), len(self.weight))
        for wide, part in zip(self._wide_tiles(), outputs.split(len(self._tiles[0]), 1), strict=True):
            torch.mm(rows, wide.t(), out=part)
        return outputs

    def _from_left(self, rows: Tensor) -> Tensor:
        """A tile times rows: some rows of the transposed output, which are whole lines of memory."""
        columns = rows.t().contiguous()
        outputs = torch.empty(len(self.weight), len(rows))
        for wide, part in zip(self._wide_tiles(), outputs.split(len(self._tiles[0])), strict=True):
            torch.mm(wide, columns, out=part)
        return outputs.t()

    def _wide_tiles(self) -> Iterator[Tensor]:
        """The tiles in float32, each in the memory of the last."""
        memory = torch.empty(self._tiles[0].shape)
        for tile in self._tiles:
            if len(tile) < len(memory):
                memory = memory[: len(tile)]
            yield memory.copy_(tile)


def projection_of(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """What does the work of a linear layer; the module itself where it is another one, an adapter say."""
    if isinstance(module, HeldLinear) and module.is_whole and module.bias is None:
        return module.held.product
    return Projection(module.weight, module.bias) if type(module) is nn.Linear else module


@cache
def has_half_instructions() -> bool:
    """Whether the processor multiplies bfloat16 by itself. x86 ones that do not have nothing for float16 either; of
    others it is not known that a tile would pay."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
