"""Products of rows with packed weights, in C: one call each, during which other threads of Python go on.

Shapes: T rows, N outputs, K inputs.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from shardnet.quantised.native.compiling import WhyNot, library
from shardnet.quantised.native.packing import Packed

_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_NO_MEMORY = 1
_OF_WEIGHT = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int32, ctypes.c_float)
_OF_ROWS = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32)


class Native:
    """The products of a compiled library."""

    def __init__(self, compiled: ctypes.CDLL) -> None:
        compiled.shardnet_way.restype = ctypes.c_char_p
        self.way: str = compiled.shardnet_way().decode()
        """For which instructions it was compiled, such as "avx512-vnni"; "plain" is C alone, and slow."""
        self._product = compiled.shardnet_product
        self._product.argtypes = (*_OF_WEIGHT, *_OF_ROWS, *_OF_ROWS, ctypes.c_int64, ctypes.c_void_p, ctypes.c_uint32)
        self._gather = compiled.shardnet_gather
        self._gather.argtypes = (*_OF_WEIGHT, ctypes.c_void_p, *_OF_ROWS, ctypes.c_int64)
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
        _check_packed(weight)
        if out is None:
            out = rows.new_empty(rows.shape[0], weight.num_outputs)
        num_rows = _checked(rows, "rows", weight.num_inputs)
        if _checked(out, "out", weight.num_outputs) != num_rows:
            raise ValueError(f"out has {out.shape[0]} rows, and not {num_rows}.")
        failure = self._product(
            *(weight.blocks.data_ptr(), *weight[1:]),
            *(rows.data_ptr(), rows.stride(0), _KINDS[rows.dtype]),
            *(out.data_ptr(), out.stride(0), _KINDS[out.dtype]),
            *(num_rows, self._parallel, torch.get_num_threads()),
        )
        if failure:
            raise MemoryError("There is no memory for the rounded rows of a product.")
        return out

    def gather(self, ids: Tensor, weight: Packed, out: Tensor) -> Tensor:
        """The weight's rows of these numbers, as embeddings are looked up: [T, K] of out's type.

        Args:
            ids: int64 [T].
            out: [T, K], where the rows go.

        Raises:
            ValueError: a shape, a type or a stride that is not so.
            IndexError: the weight has no such row.
        """
        _check_packed(weight)
        if ids.dtype != torch.int64 or not ids.is_contiguous() or ids.device.type != "cpu":
            raise ValueError("ids must be int64, side by side in the memory of the CPU.")
        if _checked(out, "out", weight.num_inputs) != ids.numel():
            raise ValueError(f"out has {out.shape[0]} rows, and not {ids.numel()}.")
        failure = self._gather(
            *(weight.blocks.data_ptr(), *weight[1:]),
            *(ids.data_ptr(), out.data_ptr(), out.stride(0), _KINDS[out.dtype], ids.numel()),
        )
        if failure:
            raise IndexError(f"ids must be from 0 to {weight.num_outputs - 1}.")
        return out


@functools.cache
def build(folder: Path | None) -> Native | WhyNot:
    """The products for this processor; once for each folder and process.

    Args:
        folder: where the library is kept for later processes, such as `cache_folder() / "native"`; None keeps it
            nowhere. Where there is none yet it is compiled, which takes some seconds.
    """
    compiled = library(folder)
    if isinstance(compiled, WhyNot):
        return compiled
    if wrong := compiled.shardnet_trial():
        return WhyNot(f"The compiled products come out wrong (number {wrong} of their trial).")
    return Native(compiled)


def _check_packed(weight: Packed) -> None:
    blocks = weight.blocks
    if blocks.numel() != weight.num_bytes or not blocks.is_contiguous() or blocks.device.type != "cpu":
        raise ValueError(f"The blocks of a weight must be {weight.num_bytes} bytes, one after the other, on the CPU.")


def _checked(rows: Tensor, name: str, width: int) -> int:
    """How many rows they are.

    Raises:
        ValueError: the product cannot read or write them as they lie.
    """
    if rows.dtype not in _KINDS or rows.device.type != "cpu":
        raise ValueError(
            f"{name} must be float32, bfloat16 or float16 on the CPU, and not {rows.dtype} on {rows.device}."
        )
    if rows.dim() != 2 or rows.shape[1] != width:
        raise ValueError(f"{name} must be [rows, {width}], and not {list(rows.shape)}.")
    if rows.stride(1) != 1 and rows.numel():
        raise ValueError(f"The numbers of a row of {name} must lie side by side.")
    return rows.shape[0]


def _threads_of_torch() -> int | None:
    """The function by which torch's own OpenMP runs work on its threads, as an address; None where torch has none."""
    found = importlib.util.find_spec("torch")
    assert found is not None and found.origin is not None
    for file in sorted(Path(found.origin).parent.glob("lib/libgomp*.so*")):
        return ctypes.cast(ctypes.CDLL(str(file)).GOMP_parallel, ctypes.c_void_p).value
    return None
