"""Products of rows with packed weights, in C: one call each, during which other threads of Python go on.

Shapes: T rows, N outputs, K inputs.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import struct
from pathlib import Path

import torch
from torch import Tensor

from shardnet.quantised.native.compiling import Library, WhyNot, library
from shardnet.quantised.native.packing import TILE, Packed, block_bytes

_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_call = struct.Struct("15q").pack
"""`Call` of products.h."""
_pack = struct.Struct("14q").pack
"""`Pack`."""
_NOT_FINITE, _OTHER_ROWS = 3, 4
STORED = ("F32", "BF16", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
"""What rows of a file may be made of, by the numbers of products.h: floats, and blocks of ggml."""


class Native:
    """The products of a compiled library."""

    def __init__(self, made: Library) -> None:
        compiled, self.why_not_kept = made
        compiled.shardnet_way.restype = ctypes.c_char_p
        self.way: str = compiled.shardnet_way().decode()
        """For which instructions it was compiled, such as "avx512-vnni"; "plain" is C alone, and slow."""
        self._product, self._gather = compiled.shardnet_product, compiled.shardnet_gather
        self._blocks, self._pack = compiled.shardnet_blocks, compiled.shardnet_pack
        for function in (self._product, self._gather, self._pack):
            function.argtypes = (ctypes.c_char_p,)
        self._blocks.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p)
        self._parallel = _threads_of_torch()

    def product(self, rows: Tensor, weight: Packed, out: Tensor | None = None) -> Tensor:
        """rows times the weight, on as many threads as torch would take.

        Rows are rounded to 8 bits in groups of 32. What comes of a row depends on it alone, bit for bit, however many
        come with it; a NaN or an infinity in it makes all that comes of it NaN.

        Args:
            rows: [T, K], float32, bfloat16 or float16; each row's numbers lie side by side.
            out: [T, N], of any of these types, where the result goes; None makes it, of the type of `rows`.

        Raises:
            ValueError: a shape, a type or a stride that is not so.
            MemoryError
        """
        if out is None:
            out = rows.new_empty(len(rows), weight.num_outputs)
        to = placed(out, "out", weight.num_outputs)
        call = (*whole(weight), *placed(rows, "rows", weight.num_inputs), *to, len(rows))
        if len(out) != len(rows):
            raise ValueError(f"out has {len(out)} rows, and not {len(rows)}.")
        _done(self._product(_call(*call, *self.threads())))
        return out

    def pack(self, weight: Packed, first_row: int, stored: str, rows: Tensor, order: Tensor | None) -> None:
        """Lay some outputs of a weight out, from rows as a file has them.

        Codes of the same groups are kept; all else becomes floats, a row at a time, and is rounded as
        `rounding.rounded` does.

        Args:
            first_row: of these outputs, a multiple of 16; only the last of a weight may be fewer than another multiple.
            stored: one of `STORED`.
            rows: uint8 [outputs, bytes of a row], one behind the other.
            order: int64 [outputs], which of the rows each output is; None: they are in order.

        Raises:
            ValueError: a scale, a minimum or a number that is to be rounded is not finite; or rows are not so.
            MemoryError
        """
        num_rows, row_bytes = rows.shape
        is_order = order is None or (order.dtype == torch.int64 and order.is_contiguous() and len(order) == num_rows)
        if not is_order or not rows.is_contiguous() or rows.dtype != torch.uint8:
            raise ValueError("Rows must be bytes, and their order int64, one after the other.")
        if first_row % TILE or first_row + num_rows > weight.num_outputs:
            raise ValueError(f"There are {weight.num_outputs} outputs, and not {num_rows} more from {first_row} on.")
        at = 0 if order is None else order.data_ptr()
        given = (rows.data_ptr(), row_bytes, STORED.index(stored), at, first_row, num_rows)
        failure = self._pack(_pack(*whole(weight), *given, *self.threads()))
        if failure == _NOT_FINITE:
            raise ValueError("This weight has a number that is not finite.")
        if failure == _OTHER_ROWS:
            raise ValueError(f"A row of {weight.num_inputs} numbers in {stored} has not {row_bytes} bytes.")
        _done(failure)

    def threads(self) -> tuple[int, int]:
        """What runs work on threads, as an address, and how many there are: fields of a call."""
        return self._parallel, torch.get_num_threads()

    def run_blocks(self, blocks: int, layers: int, num: int, step: bytes) -> None:
        """So many blocks, one after the other: see `NativeBlocks`. The first two are addresses."""
        _done(self._blocks(blocks, layers, num, step))

    def gather(self, ids: Tensor, weight: Packed, out: Tensor) -> Tensor:
        """The weight's rows of these numbers, as embeddings are looked up: [T, K] of out's type.

        Args:
            ids: int64 [T].
            out: [T, K], where the rows go.

        Raises:
            ValueError: a shape, a type or a stride that is not so.
            IndexError: the weight has no such row.
        """
        if ids.dtype != torch.int64 or ids.dim() != 1 or not ids.is_contiguous() or not ids.is_cpu:
            raise ValueError("ids must be int64, one after the other in the memory of the CPU.")
        if len(out) != len(ids):
            raise ValueError(f"out has {len(out)} rows, and not {len(ids)}.")
        to = placed(out, "out", weight.num_inputs)
        if self._gather(_call(*whole(weight), ids.data_ptr(), 0, 0, *to, len(ids), 0, 1)):
            raise IndexError(f"ids must be from 0 to {weight.num_outputs - 1}.")
        return out


@functools.cache
def build(folder: Path | None) -> Native | WhyNot:
    """The products for this processor; once for each folder and process.

    Args:
        folder: where the library is kept for later processes, such as `cache_folder() / "native"`; None keeps it
            nowhere. Where there is none yet it is compiled, which takes some seconds.
    """
    made = library(folder)
    if isinstance(made, WhyNot):
        return made
    if wrong := made.loaded.shardnet_trial():
        return WhyNot(f"The compiled products come out wrong (number {wrong} of their trial).")
    return Native(made)


def _done(failure: int) -> None:
    if failure:
        raise MemoryError("There is no memory for the rows of a step.")


def whole(weight: Packed) -> tuple[int, ...]:
    """Its fields of a call.

    Raises:
        ValueError: it is not as it was packed.
    """
    blocks, units, num_outputs, num_inputs, group, bits = weight
    num_tiles = (num_outputs + TILE - 1) // TILE
    num_bytes = num_tiles * (num_inputs // group) * block_bytes(group, bits)
    if blocks.numel() != num_bytes or not blocks.is_contiguous() or not blocks.is_cpu or units.numel() != num_tiles:
        raise ValueError(f"The blocks of a weight must be {num_bytes} bytes, one after the other, on the CPU.")
    return blocks.data_ptr(), units.data_ptr(), num_outputs, num_inputs, group, bits


def placed(rows: Tensor, name: str, width: int) -> tuple[int, int, int]:
    """Address, stride and kind of rows.

    Raises:
        ValueError: a product cannot read or write them as they lie.
    """
    kind = _KINDS.get(rows.dtype)
    if kind is None or not rows.is_cpu:
        raise ValueError(
            f"{name} must be float32, bfloat16 or float16 on the CPU, and not {rows.dtype} on {rows.device}."
        )
    if rows.dim() != 2 or rows.shape[1] != width:
        raise ValueError(f"{name} must be [rows, {width}], and not {list(rows.shape)}.")
    if rows.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} wants a gradient, and none comes through C. Use torch.inference_mode().")
    stride, step = rows.stride()
    if step != 1 and rows.numel():
        raise ValueError(f"The numbers of a row of {name} must lie side by side.")
    return rows.data_ptr(), stride, kind


def _threads_of_torch() -> int:
    """The function by which torch's own OpenMP runs work on its threads, as an address; 0 where there is none."""
    found = importlib.util.find_spec("torch")
    assert found is not None and found.origin is not None
    for file in sorted(Path(found.origin).parent.glob("lib/libgomp*.so*")):
        return ctypes.cast(ctypes.CDLL(str(file)).GOMP_parallel, ctypes.c_void_p).value or 0
    return 0
