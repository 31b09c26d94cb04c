"""A tensor as it travels: its dtype by number, its shape, and its bytes. Knows no network.

A large one lies beside the frame, in torch RPC's own table of tensors, which saves many copies. What arrives owns its
memory, is contiguous, on the CPU, without gradients, and no larger than the bytes that came (of those in the table,
torch is believed).
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Sequence

import torch

from shardnet.transport.wire.schema import TENSOR_KINDS

DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
"""What may travel. The position is the number on the wire: append only."""
MAX_DIMENSIONS = 8
INLINE_BYTES = 2**17
"""A larger tensor goes beside the frame. Hidden states of decoding are smaller, and quicker as part of it."""
_MAX_ELEMENTS = 2**40
"""Of a shape whose zeros count as ones: strides of an empty tensor must not overflow either."""

TENSOR_KINDS.update((torch.Tensor, torch.nn.Parameter))

_NUMBERS = {dtype: number for number, dtype in enumerate(DTYPES)}
_HEADS = [struct.Struct(f"<BB{num_dimensions}Q") for num_dimensions in range(MAX_DIMENSIONS + 1)]


def sendable(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor detached, on the CPU, contiguous, with nothing in its storage that it does not show if it is large.

    TensorPipe ships the whole storage of a view that shows more than half of it: a clone ships the view only.

    Raises:
        TypeError: it is sparse, quantised, of a dtype that does not travel, or has too many dimensions.
    """
    if tensor.dtype not in _NUMBERS or tensor.layout is not torch.strided or tensor.ndim > MAX_DIMENSIONS:
        raise TypeError(f"a {tensor.layout} tensor of {tensor.dtype} and {tensor.ndim} dimensions may not travel")
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.device.type != "cpu":
        tensor = tensor.cpu()
    if tensor.nbytes > INLINE_BYTES and tensor.untyped_storage().nbytes() != tensor.nbytes:
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor.contiguous()


def encoded(tensor: torch.Tensor) -> bytes:
    """What says how a sendable tensor is, and its elements."""
    head = _HEADS[tensor.ndim].pack(_NUMBERS[tensor.dtype], tensor.ndim, *tensor.shape)
    return head + ctypes.string_at(tensor.data_ptr(), tensor.nbytes)


def decoded(data: bytes, at: int) -> tuple[torch.Tensor, int]:
    """The tensor that stands in `data` from `at` on, and where it ends.

    Raises:
        ValueError: no such dtype, an impossible shape, fewer bytes than it needs, or a bool that is neither.
        struct.error, IndexError: the data end within its head.
    """
    number, num_dimensions = data[at], data[at + 1]
    if number >= len(DTYPES) or num_dimensions > MAX_DIMENSIONS:
        raise ValueError("a tensor of a dtype or a number of dimensions that may not travel")
    head = _HEADS[num_dimensions]
    shape = head.unpack_from(data, at)[2:]
    at += head.size
    dtype, num_elements = DTYPES[number], math.prod(shape)
    if not num_elements:
        return _empty(shape, dtype), at
    end = at + num_elements * dtype.itemsize
    if end > len(data):
        raise ValueError("a tensor that says it is larger than what came")
    content = bytearray(memoryview(data)[at:end])
    if dtype is torch.bool and max(content) > 1:
        raise ValueError("a bool that is neither true nor false")
    flat = torch.frombuffer(content, dtype=dtype)
    # With the lengths in one tuple, it takes four times as long.
    return (flat.view(*shape) if shape else flat.view(())), end


def check_table(table: Sequence[torch.Tensor]) -> None:
    """Hold tensors that came beside a frame to what `sendable` makes.

    Raises:
        ValueError: one is not as it should be.
    """
    for tensor in table:
        _check_tensor(tensor)
    if len({tensor.data_ptr() for tensor in table}) != len(table):
        raise ValueError("two tensors in one memory")


def _check_tensor(tensor: torch.Tensor) -> None:
    if type(tensor) is not torch.Tensor or tensor.layout is not torch.strided or tensor.device.type != "cpu":
        raise ValueError("a tensor that is none of rows on the CPU")
    if tensor.dtype not in _NUMBERS or tensor.ndim > MAX_DIMENSIONS or tensor.requires_grad:
        raise ValueError("a tensor of a dtype or a number of dimensions that may not travel, or with gradients")
    if not tensor.numel() or not tensor.is_contiguous() or tensor.untyped_storage().nbytes() != tensor.nbytes:
        raise ValueError("a tensor that is not all of its memory")
    if tensor.dtype is torch.bool and int(tensor.view(torch.uint8).max()) > 1:
        raise ValueError("a bool that is neither true nor false")


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if math.prod(length or 1 for length in shape) > _MAX_ELEMENTS:
        raise ValueError("a tensor of an impossible shape")
    return torch.empty(shape, dtype=dtype)
