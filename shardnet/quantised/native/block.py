"""A block of Llama's shape with packed weights, all but its attention in two calls of C.

Between the products everything is float32, so that less is rounded than by operations of torch in half precision. What
comes of a row depends on that row alone.

Shapes: T rows, H hidden size, I inner size, Q query and K key-value heads, d head size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch
from torch import Tensor

from shardnet.quantised.native.packing import Packed
from shardnet.quantised.native.products import Native, placed, whole

ACTIVATIONS = {"silu": 0, "swish": 0, "gelu_pytorch_tanh": 1}
"""Those that are here, by their names in configurations."""
_before = struct.Struct("8qd11q").pack
_behind = struct.Struct("22qd10q").pack
"""`Before` and `Behind` of products.h."""


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMS norm."""

    weight: Tensor
    """float32 [H]: what rows are multiplied by (Gemma's is 1 + weight)."""
    eps: float


@dataclass(frozen=True, slots=True)
class NativeBlock:
    """What a block computes before and behind its attention. Biases are float32, or None."""

    native: Native
    qkv: Packed
    """[(Q + 2 K) d, H]: queries, keys, values."""
    out: Packed
    """[H, Q d]."""
    gate_up: Packed
    """[2 I, H]."""
    down: Packed
    """[H, I]."""
    before_attention: Norm
    before_mlp: Norm
    head_size: int
    num_turned: int
    """Q + K, or 0 where positions turn nothing."""
    activation: int
    """Of `ACTIVATIONS`."""
    qkv_bias: Tensor | None = None
    out_bias: Tensor | None = None
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None

    def __post_init__(self) -> None:
        hidden, inner = self.out.num_outputs, self.down.num_inputs
        fits = self.qkv.num_inputs == self.gate_up.num_inputs == self.down.num_outputs == hidden
        assert fits and self.gate_up.num_outputs == 2 * inner, "the matrices are not of one block"
        heads = self.num_turned * self.head_size
        assert heads <= self.qkv.num_outputs and self.head_size % 2 == 0, "more is turned than there is"
        vectors = (
            (self.before_attention.weight, hidden),
            (self.before_mlp.weight, hidden),
            (self.qkv_bias, self.qkv.num_outputs),
            (self.out_bias, hidden),
            (self.gate_up_bias, 2 * inner),
            (self.down_bias, hidden),
        )
        for vector, size in vectors:
            if vector is not None:
                is_right = vector.dtype == torch.float32 and vector.shape == (size,) and vector.is_contiguous()
                assert is_right, "norms and biases are float32, side by side"

    def before(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Hidden [T, H] -> [T, Q + 2 K, d]: queries and keys, turned, and values, in its type.

        Args:
            cos, sin: [T, 1, d] of the same type, of the rows' positions; the sine with the sign of the half of a head
                that it meets, as `RotaryTables.signed_at` gives them. Not read where nothing is turned.

        Raises:
            ValueError: a shape, a type or a stride that is not so.
            MemoryError
        """
        num_rows, d = len(hidden), self.head_size
        at, stride, kind = placed(hidden, "hidden", self.qkv.num_inputs)
        if self.num_turned:
            for name, table in (("cos", cos), ("sin", sin)):
                if table.shape != (num_rows, 1, d) or table.dtype != hidden.dtype or not table.is_contiguous():
                    raise ValueError(
                        f"{name} must be {hidden.dtype} [{num_rows}, 1, {d}], and not {list(table.shape)}."
                    )
        heads = hidden.new_empty(num_rows, self.qkv.num_outputs // d, d)
        call = _before(
            *whole(self.qkv),
            *(self.before_attention.weight.data_ptr(), _address(self.qkv_bias), self.before_attention.eps),
            *(at, stride, kind, heads.data_ptr(), num_rows, cos.data_ptr(), sin.data_ptr()),
            *(self.num_turned, d, *self.native.threads()),
        )
        self.native.run_before(call)
        return heads

    def behind(self, hidden: Tensor, seen: Tensor) -> Tensor:
        """Hidden [T, H] and what the heads saw [T, Q d], of the same type -> hidden [T, H].

        Raises:
            ValueError: a shape, a type or a stride that is not so.
            MemoryError
        """
        at, stride, kind = placed(hidden, "hidden", self.out.num_outputs)
        seen_at, seen_stride, seen_kind = placed(seen, "seen", self.out.num_inputs)
        if seen_kind != kind or len(seen) != len(hidden):
            raise ValueError(f"seen must be {len(hidden)} rows of {hidden.dtype}, and not {len(seen)} of {seen.dtype}.")
        result = torch.empty_like(hidden, memory_format=torch.contiguous_format)
        call = _behind(
            *(*whole(self.out), *whole(self.gate_up), *whole(self.down)),
            *(self.before_mlp.weight.data_ptr(), _address(self.out_bias)),
            *(_address(self.gate_up_bias), _address(self.down_bias), self.before_mlp.eps, self.activation),
            *(at, stride, seen_at, seen_stride, result.data_ptr(), kind, len(hidden), *self.native.threads()),
        )
        self.native.run_behind(call)
        return result


def _address(vector: Tensor | None) -> int:
    return 0 if vector is None else vector.data_ptr()
