"""The short way through a Llama-shaped block.

Decoding one token is bound by memory traffic and, after that, by the number of operations: a stock block makes about 70
small ones. Here the same mathematics takes 25: queries, keys and values come from one matrix product, gate and up from
another (their weights lie side by side in memory, so nothing is stored twice), and norms and rotations are written for
one row. Products with many rows, those of prompts and of many sessions, go through `products`. In half precision both
round differently: where two tokens are nearly even, a text may go another way than on the stock blocks. What the
runtime gains by it beside `transformers` stands in docs/benchmarks. Blocks of other shapes, and those whose modules
were replaced, run as transformers has them.

Shapes: T new tokens of all sessions, H hidden size, Q query and K key-value heads, d head size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shardnet.models.attention import RaggedKV, attend
from shardnet.models.products import Projection
from shardnet.models.rotary import Turn

SIDE_BY_SIDE = (
    ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
)
"""Weights of a block that lie one behind the other, so that one product serves all of a line."""


def lean_blocks(blocks: Sequence[nn.Module]) -> list[LeanBlock]:
    """The short ways through these blocks; none where a block's modules were replaced (adapters, other weights)."""
    if not all(_is_plain(block) for block in blocks):
        return []
    return [LeanBlock(block) for block in blocks]


def _is_plain(block: Any) -> bool:
    attention, mlp = block.self_attn, block.mlp
    linears = (
        attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
        mlp.gate_proj, mlp.up_proj, mlp.down_proj,
    )  # fmt: skip
    return all(type(linear) is nn.Linear and not linear.weight.is_meta for linear in linears)


class LeanBlock:
    """One block's weights, and the arithmetic of its `forward`."""

    def __init__(self, block: Any) -> None:
        attention, mlp = block.self_attn, block.mlp
        self._layer: int = attention.layer_idx
        self._head_dim: int = attention.head_dim
        self._scaling: float = attention.scaling
        self._rotates = bool(getattr(attention, "use_rope", True))
        self._num_heads = attention.q_proj.out_features // self._head_dim
        self._num_rotated = self._num_heads + attention.k_proj.out_features // self._head_dim
        self._query_norm: nn.Module | None = getattr(attention, "q_norm", None)
        self._key_norm: nn.Module | None = getattr(attention, "k_norm", None)
        self._in_norm: Any = block.input_layernorm
        self._mid_norm: Any = block.post_attention_layernorm
        self._qkv = _joined([attention.q_proj, attention.k_proj, attention.v_proj])
        self._out = Projection(attention.o_proj.weight, attention.o_proj.bias)
        self._gate_up = _joined([mlp.gate_proj, mlp.up_proj])
        self._down = Projection(mlp.down_proj.weight, mlp.down_proj.bias)
        self._intermediate: int = mlp.gate_proj.out_features
        self._activate = mlp.act_fn

    def __call__(self, hidden: Tensor, turn: Turn, kv: RaggedKV) -> Tensor:
        """Hidden [T, H] -> hidden [T, H]; `turn` as `RotaryTables.signed_at` gives it."""
        num_rows, d = hidden.shape[0], self._head_dim
        heads = self._qkv(_normalise(self._in_norm, hidden)).view(num_rows, -1, d)
        turned, values = heads[:, : self._num_rotated], heads[:, self._num_rotated :]
        if self._query_norm is not None and self._key_norm is not None:
            queries, keys = turned[:, : self._num_heads], turned[:, self._num_heads :]
            turned = torch.cat((self._query_norm(queries), self._key_norm(keys)), 1)
        if self._rotates:
            turned = (turned * turn.cos).add_(turned.roll(d // 2, -1).mul_(turn.sin))
        queries, keys = turned[:, : self._num_heads], turned[:, self._num_heads :]
        kv.update(keys.transpose(0, 1)[None], values.transpose(0, 1)[None], self._layer)
        seen, _ = attend(self._in_norm, queries.transpose(0, 1)[None], kv, kv, None, self._scaling)
        hidden = self._out(seen.reshape(num_rows, -1)).add_(hidden)
        gate_up = self._gate_up(_normalise(self._mid_norm, hidden))
        inner = self._activate(gate_up[:, : self._intermediate]).mul_(gate_up[:, self._intermediate :])
        return self._down(inner).add_(hidden)


def _normalise(norm: Any, hidden: Tensor) -> Tensor:
    """RMS norm. One row's square sum is a dot product: half the operations of the module."""
    if hidden.shape[0] > 1:
        return norm(hidden)
    row = hidden[0].float()
    mean = torch.dot(row, row).item() / row.shape[0] + norm.variance_epsilon
    scale = 1.0 / math.sqrt(mean) if mean > 0.0 else math.nan  # as the module: that session fails, and alone
    return norm.weight * (row * scale).to(hidden.dtype)[None]


def _joined(linears: Sequence[nn.Linear]) -> Projection:
    """One linear layer that does the work of several with the same input."""
    biases = [linear.bias for linear in linears if linear.bias is not None]
    bias = torch.cat([bias.detach() for bias in biases]) if len(biases) == len(linears) else None
    return Projection(_lay_together([linear.weight for linear in linears]), bias)


def _lay_together(weights: Sequence[Tensor]) -> Tensor:
    """One matrix over weights that lie one behind the other; moves them first where they do not."""
    if not _are_neighbours(weights):
        joined = torch.cat([weight.detach() for weight in weights])
        for weight, rows in zip(weights, joined.split([len(weight) for weight in weights]), strict=True):
            weight.data = rows
    first = weights[0].data
    return first.as_strided((sum(len(weight) for weight in weights), first.shape[1]), first.stride())


def _are_neighbours(weights: Iterable[Tensor]) -> bool:
    end: tuple[int, int] | None = None
    for weight in weights:
        storage = weight.untyped_storage().data_ptr()
        if end is not None and end != (storage, weight.data_ptr()):
            return False
        end = (storage, weight.data_ptr() + weight.nbytes)
    return True
