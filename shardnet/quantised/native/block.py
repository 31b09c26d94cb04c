"""Blocks of Llama's shape with packed weights, several of them in one call of C.

Between the products everything is float32, so that less is rounded than by operations of torch in half precision. What
comes of a row depends on it and on what it may see alone.

Shapes: T rows, H hidden size, I inner size, Q query and K key-value heads, d head size.
"""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.quantised.native.packing import Packed
from shardnet.quantised.native.products import Native, placed, whole

ACTIVATIONS = {"silu": 0, "swish": 0, "gelu_pytorch_tanh": 1}
"""Those that are here, by their names in configurations."""
_block = struct.Struct("24q" + 6 * "qd" + "9q2d").pack
_step = struct.Struct("8q").pack
"""`Block` and `Step` of products.h."""
WORD = 8
"""Bytes of each of their fields, and of those of `Layer` and `Run`."""


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMS norm."""

    weight: Tensor
    """float32 [H] or [d]: what rows are multiplied by (Gemma's is 1 + weight)."""
    eps: float


class Heads(NamedTuple):
    """How a block attends."""

    num_heads: int
    num_kv_heads: int
    head_size: int
    scaling: float
    """By which scores are multiplied."""
    softcap: float | None = None
    """Scores are bent to stay below it (Gemma 2)."""
    window: int | None = None
    """So many tokens are seen, each its own among them."""


class Norms(NamedTuple):
    """Of a block."""

    before_attention: Norm
    before_mlp: Norm
    behind_attention: Norm | None = None
    behind_mlp: Norm | None = None
    query: Norm | None = None
    """Of each head, before it is turned."""
    key: Norm | None = None


class Biases(NamedTuple):
    """Of a block's matrices, float32, or None."""

    qkv: Tensor | None = None
    out: Tensor | None = None
    gate_up: Tensor | None = None
    down: Tensor | None = None


NO_BIASES = Biases()


@dataclass(frozen=True)
class NativeBlock:
    """A block's weights, and what it does with them."""

    qkv: Packed
    """[(Q + 2 K) d, H]: queries, keys, values."""
    out: Packed
    """[H, Q d]."""
    gate_up: Packed
    """[2 I, H]."""
    down: Packed
    """[H, I]."""
    heads: Heads
    activation: int
    """Of `ACTIVATIONS`."""
    norms: Norms
    biases: Biases = NO_BIASES
    record: ctypes.Array[ctypes.c_char] = field(init=False, repr=False)
    """As C reads it."""

    def __post_init__(self) -> None:
        hidden, inner, d = self.out.num_outputs, self.down.num_inputs, self.heads.head_size
        fits = self.qkv.num_inputs == self.gate_up.num_inputs == self.down.num_outputs == hidden
        assert fits and self.gate_up.num_outputs == 2 * inner, "the matrices are not of one block"
        num_heads, num_kv_heads = self.heads[:2]
        fits = self.qkv.num_outputs == (num_heads + 2 * num_kv_heads) * d and self.out.num_inputs == num_heads * d
        assert fits and num_heads % num_kv_heads == 0 and d % 2 == 0, "the matrices are not of these heads"
        for norm, size in zip(self.norms, (hidden, hidden, hidden, hidden, d, d), strict=True):
            _check(None if norm is None else norm.weight, size)
        for bias, size in zip(self.biases, (self.qkv.num_outputs, hidden, 2 * inner, hidden), strict=True):
            _check(bias, size)
        record = _block(
            *(*whole(self.qkv), *whole(self.out), *whole(self.gate_up), *whole(self.down)),
            *(number for norm in self.norms for number in _fields(norm)),
            *(0 if bias is None else bias.data_ptr() for bias in self.biases),
            *(self.activation, num_heads, num_kv_heads, d, self.heads.window or 0),
            *(self.heads.scaling, self.heads.softcap or 0.0),
        )
        object.__setattr__(self, "record", ctypes.create_string_buffer(record, len(record)))


class Seen(NamedTuple):
    """What a block sees of a step, beside its rows."""

    angles: tuple[Tensor, Tensor] | None
    """Cosine and sine [T, 1, d] of the rows' positions, the sine with the sign of the half of a head that it meets, as
    `RotaryTables.signed_at` gives them. None where nothing is turned."""
    runs: Sequence[Sequence[tuple[int, int, int]]]
    """Of each session where its keys [rows, K, d] and values begin, and how many rows lie there, one run after the
    other. The new ones are written there."""


class NativeBlocks:
    """Blocks that follow one another."""

    def __init__(self, native: Native, blocks: Sequence[NativeBlock]) -> None:
        self._native = native
        self.blocks = tuple(blocks)
        self._addresses = array("q", [ctypes.addressof(block.record) for block in blocks])

    def run(
        self, hidden: Tensor, sessions: Sequence[tuple[int, int]], seen: Iterable[Seen], *, is_rounded: bool = False
    ) -> Tensor:
        """Hidden [T, H] -> [T, H].

        Args:
            sessions: of each how many of the rows are its own, and how many tokens it had before.
            seen: of each block. Their runs have room for all tokens, in the type of `hidden`.
            is_rounded: keys and values are kept in 8 bits, as `kv_rows` does.

        Raises:
            ValueError: a shape, a type or a stride that is not so.
            MemoryError
        """
        hidden = hidden.clone(memory_format=torch.contiguous_format)
        at, _, kind = placed(hidden, "hidden", self.blocks[0].out.num_outputs)
        if sum(num for num, _ in sessions) != len(hidden):
            raise ValueError(f"hidden has {len(hidden)} rows, and not those of sessions with {sessions}.")
        layers, runs, begins = array("q"), array("q"), []
        for block, own in zip(self.blocks, seen, strict=True):
            layers.extend((*_angles(own.angles, hidden, block.heads.head_size), 0))
            begins.append(len(runs))
            for (num_new, length), places in zip(sessions, own.runs, strict=True):
                _add_runs(runs, places, length + num_new)
        first = runs.buffer_info()[0]
        for index, begin in enumerate(begins):
            layers[3 * index + 2] = first + WORD * begin
        numbers = array("q", [number for session in sessions for number in session])
        told = numbers.buffer_info()[0], len(sessions)
        step = _step(at, kind, len(hidden), is_rounded, *told, *self._native.threads())
        self._native.run_blocks(self._addresses.buffer_info()[0], layers.buffer_info()[0], len(self.blocks), step)
        return hidden


def _angles(angles: tuple[Tensor, Tensor] | None, hidden: Tensor, d: int) -> tuple[int, int]:
    if angles is None:
        return 0, 0
    for name, table in zip(("cos", "sin"), angles, strict=True):
        if table.shape != (len(hidden), 1, d) or table.dtype != hidden.dtype or not table.is_contiguous():
            raise ValueError(f"{name} must be {hidden.dtype} [{len(hidden)}, 1, {d}], and not {list(table.shape)}.")
    return angles[0].data_ptr(), angles[1].data_ptr()


def _add_runs(runs: array[int], places: Sequence[tuple[int, int, int]], num_tokens: int) -> None:
    if sum(num_rows for _, _, num_rows in places) < num_tokens:
        raise ValueError(f"There is no room for {num_tokens} tokens of a session.")
    runs.append(len(places))
    for place in places:
        runs.extend(place)


def _fields(norm: Norm | None) -> tuple[int, float]:
    return (0, 0.0) if norm is None else (norm.weight.data_ptr(), norm.eps)


def _check(vector: Tensor | None, size: int) -> None:
    if vector is not None:
        is_right = vector.dtype == torch.float32 and vector.shape == (size,) and vector.is_contiguous()
        assert is_right, "norms and biases are float32, side by side"
