"""What a kernel is: it lays a matrix of few bits out in memory in its own way, and multiplies by it.

Shapes: T rows, K inputs, N outputs.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from shardnet.quantised.grouped import Grouped
from shardnet.quantised.schemes import Form

TILE_ELEMENTS = 1 << 18
"""Numbers of a matrix that become floats at a time: as float32 1 MiB, half of a core's own cache."""


class Shape(NamedTuple):
    """Of a matrix, and how it is held."""

    form: Form
    num_outputs: int
    num_inputs: int

    @property
    def num_groups(self) -> int:
        """Of a row."""
        return self.num_inputs // self.form.group_of(self.num_inputs)


class Memory(NamedTuple):
    """A tensor that a kernel wants for a matrix."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Matrix(NamedTuple):
    """One that was laid out, or is about to be."""

    shape: Shape
    tensors: dict[str, Tensor]
    """Those that the kernel wants."""


class Kernel(Protocol):
    """Multiplies by matrices that it has laid out."""

    @property
    def name(self) -> str:
        """What people and profiles call it."""

    @property
    def row_step(self) -> int:
        """Outputs are laid out so many at a time."""

    def suits(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> bool:
        """Whether it can multiply rows in `dtype` by such a matrix, on `device`."""

    def memory(self, shape: Shape) -> dict[str, Memory]:
        """What it keeps of such a matrix."""

    def fill(self, matrix: Matrix, first_row: int, grouped: Grouped) -> None:
        """Lay out some outputs; `first_row` is a multiple of `row_step`."""

    def product(self, matrix: Matrix, rows: Tensor) -> Tensor:
        """Rows [T, K] -> [T, N], in the dtype of the rows."""

    def can_look_up(self, shape: Shape) -> bool:
        """Whether rows of such a matrix can be had again."""

    def look_up(self, matrix: Matrix, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """The matrix's own rows [T, K] of indices [T]."""


@runtime_checkable
class LaysOutFiles(Protocol):
    """A kernel that needs no numbers in between: it lays out rows as a file has them."""

    @property
    def formats(self) -> tuple[str, ...]:
        """Of which rows may be: floats, and blocks of ggml."""

    def fill_as_stored(self, matrix: Matrix, first_row: int, stored: str, rows: Tensor, order: Tensor | None) -> None:
        """As `Kernel.fill` with what `rounding.rounded` makes of these rows, or with their own codes where these are in
        the matrix's form.

        Args:
            stored: the format, one of `formats`.
            rows: uint8 [outputs, bytes of a row].
            order: int64 [outputs], which of the rows each output is; None: they are in order.
        """
