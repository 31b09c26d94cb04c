"""The short way through blocks of Llama's shape, for all steps: prompts, single tokens, many sessions.

Decoding one token is bound by memory traffic and, after that, by the number of operations: a stock block makes about 70
small ones. Here the same mathematics takes 25: queries, keys and values come from one matrix product, gate and up from
another (their weights lie side by side in memory, so nothing is stored twice), and norms and rotations are written for
one row. Products with many rows, those of prompts and of many sessions, go through `products`. In half precision both
round differently: where two tokens are nearly even, a text may go another way than on the stock blocks. What the
runtime gains by it beside `transformers` stands in docs/benchmarks. Which families have such blocks is said in
`recipes`; blocks of other shapes run as transformers has them. Where the products in C hold a block's matrices, all of
it is done there (`in_c`).

Shapes: T new tokens of all sessions, H hidden size, Q query and K key-value heads, d head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby

import torch
from torch import Tensor, nn

from shardnet.models.attention import RaggedKV, attend
from shardnet.models.blocks import Block, RMSNorm
from shardnet.models.in_c import BlocksInC, block_in_c
from shardnet.models.products import Projection, projection_of
from shardnet.models.rotary import Turn
from shardnet.quantised.linear import Held, bias_of, one_matrix

SIDE_BY_SIDE = (
    ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
)
"""Weights of a block that lie one behind the other, so that one product serves all of a line."""


ShortWay = Callable[[Tensor, Mapping[str | None, Turn], RaggedKV], Tensor]
"""Hidden [T, H] -> hidden [T, H], with turns as `RotaryTables.signed_at` gives them, by their kinds."""


def short_ways(blocks: Sequence[tuple[Block, str | None, int | None]]) -> list[ShortWay]:
    """The short way through blocks that follow one another: in C those that can be, the others by themselves.

    Args:
        blocks: each with the kind of its rotary table, and how far back it sees.
    """
    made = [(block, kind, block_in_c(block, kind, window)) for block, kind, window in blocks]
    ways: list[ShortWay] = []
    for is_in_c, group in groupby(made, lambda each: each[2] is not None):
        if is_in_c:
            ways.append(BlocksInC([own for _, _, own in group if own is not None]))
        else:
            ways += [partial(_by_itself, LeanBlock(block), kind) for block, kind, _ in group]
    return ways


class LeanBlock:
    """The arithmetic of one block, with its weights. Modules of it that were replaced (adapters) are called."""

    def __init__(self, block: Block) -> None:
        attention, mlp = block.self_attn, block.mlp
        self._attention = attention
        self._layer: int = attention.layer_idx
        self._num_rotated = attention.num_heads + attention.num_kv_heads
        self._query_norm: nn.Module | None = getattr(attention, "q_norm", None)
        self._key_norm: nn.Module | None = getattr(attention, "k_norm", None)
        self._before_attention: nn.Module = block.input_layernorm
        self._behind_attention: nn.Module | None = None
        self._before_mlp: nn.Module = block.post_attention_layernorm
        self._behind_mlp: nn.Module | None = None
        if block.has_norms_behind:
            self._behind_attention, self._behind_mlp = block.post_attention_layernorm, block.post_feedforward_layernorm
            self._before_mlp = block.pre_feedforward_layernorm
        self._qkv = _beside([attention.q_proj, attention.k_proj, attention.v_proj])
        self._out = projection_of(attention.o_proj)
        self._gate_up = _beside([mlp.gate_proj, mlp.up_proj])
        self._down = projection_of(mlp.down_proj)
        self._num_inner = mlp.num_inner
        self._activate = mlp.act_fn

    def __call__(self, hidden: Tensor, turn: Turn, kv: RaggedKV) -> Tensor:
        """Hidden [T, H] -> hidden [T, H]; `turn` as `RotaryTables.signed_at` gives it."""
        seen = self._out(self._attend(_normalise(self._before_attention, hidden), turn, kv))
        if self._behind_attention is not None:
            seen = self._behind_attention(seen)
        hidden = seen.add_(hidden)
        gate_up = self._gate_up(_normalise(self._before_mlp, hidden))
        inner = self._activate(gate_up[:, : self._num_inner]).mul_(gate_up[:, self._num_inner :])
        outputs = self._down(inner)
        if self._behind_mlp is not None:
            outputs = self._behind_mlp(outputs)
        return outputs.add_(hidden)

    def _attend(self, rows: Tensor, turn: Turn, kv: RaggedKV) -> Tensor:
        """Normalised [T, H] -> what the heads saw [T, Q * d]."""
        attention, num_rows = self._attention, rows.shape[0]
        num_heads, d = attention.num_heads, attention.head_dim
        heads = self._qkv(rows).view(num_rows, -1, d)
        turned, values = heads[:, : self._num_rotated], heads[:, self._num_rotated :]
        if self._query_norm is not None and self._key_norm is not None:
            queries, keys = turned[:, :num_heads], turned[:, num_heads:]
            turned = torch.cat((self._query_norm(queries), self._key_norm(keys)), 1)
        if attention.use_rope:
            turned = (turned * turn.cos).add_(turned.roll(d // 2, -1).mul_(turn.sin))
        queries, keys = turned[:, :num_heads], turned[:, num_heads:]
        kv.update(keys.transpose(0, 1)[None], values.transpose(0, 1)[None], self._layer)
        seen, _ = attend(attention, queries.transpose(0, 1)[None], kv, kv, None, attention.scaling, attention.softcap)
        return seen.reshape(num_rows, -1)


def _by_itself(
    block: LeanBlock, kind: str | None, hidden: Tensor, turns: Mapping[str | None, Turn], kv: RaggedKV
) -> Tensor:
    return block(hidden, turns[kind], kv)


def _normalise(norm: nn.Module, hidden: Tensor) -> Tensor:
    """RMS norm. On a CPU one row's square sum is a dot product: half the operations of the module."""
    if hidden.shape[0] > 1 or type(norm) is not RMSNorm or hidden.device.type != "cpu":
        normalised: Tensor = norm(hidden)
        return normalised
    row = hidden[0].float()
    mean = torch.dot(row, row).item() / row.shape[0] + norm.eps
    scale = 1.0 / math.sqrt(mean) if mean > 0.0 else math.nan  # as the module: that session fails, and alone
    return norm.weight * (row * scale).to(hidden.dtype)[None]


def _beside(modules: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """What does the work of several linear layers with the same input."""
    held = one_matrix(modules)
    if held is not None:
        bias = bias_of(modules)
        return held.product if bias is None else partial(_with_bias, held, bias)
    linears = [module for module in modules if type(module) is nn.Linear]
    if len(linears) < len(modules):
        return lambda rows: torch.cat([module(rows) for module in modules], -1)
    return Projection(_lay_together([linear.weight for linear in linears]), bias_of(linears))


def _with_bias(held: Held, bias: Tensor, rows: Tensor) -> Tensor:
    return held.product(rows).add_(bias)


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
