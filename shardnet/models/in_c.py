"""Which blocks run in C: those whose matrices the products in C hold, all of them. Those that follow one another are
run by one call.

Other activations than these are left to torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from shardnet.models.attention import RaggedKV
from shardnet.models.blocks import Attention, Block, RMSNorm, ShiftedNorm
from shardnet.models.kv import SessionKV
from shardnet.models.recipes import ACTIVATIONS
from shardnet.models.rotary import Turn
from shardnet.quantised.kernels.native import InC, native, packed
from shardnet.quantised.linear import bias_of, one_matrix
from shardnet.quantised.native.block import ACTIVATIONS as NUMBERS
from shardnet.quantised.native.block import Biases, Heads, NativeBlock, NativeBlocks, Norm, Norms, Seen
from shardnet.quantised.native.products import Native


class BlockInC(NamedTuple):
    block: NativeBlock
    layer: int
    kind: str | None
    """Of which rotary table it is, where positions turn something."""
    is_turned: bool


class BlocksInC:
    """Some that follow one another."""

    def __init__(self, blocks: Sequence[BlockInC]) -> None:
        own = native()
        assert isinstance(own, Native), own
        self._blocks = tuple(blocks)
        self._native = NativeBlocks(own, [each.block for each in blocks])

    def __call__(self, hidden: Tensor, turns: Mapping[str | None, Turn], kv: RaggedKV) -> Tensor:
        """Hidden [T, H] -> hidden [T, H]; `turns` as `RotaryTables.signed_at` gives them.

        Raises:
            KVMemorySpent: a session has no room for its tokens.
        """
        segments = kv.segments
        for segment in segments:
            segment.kv.check_room(segment.num_tokens)
        sessions = [(segment.num_tokens, segment.kv.length) for segment in segments]
        seen = [
            Seen(
                turns[each.kind] if each.is_turned else None,
                [_runs(segment.kv, each.layer) for segment in segments],
            )
            for each in self._blocks
        ]
        return self._native.run(hidden, sessions, seen, is_rounded=kv.rounded is not None)


def block_in_c(block: Block, kind: str | None, window: int | None) -> BlockInC | None:
    """A block as C runs it, with the weights that it has now; None where torch is to do it.

    Args:
        kind: of which rotary table it is.
        window: so many tokens it sees, each its own among them; all where None.
    """
    if why_not(block) is not None:
        return None
    attention, linears = block.self_attn, list(_linears(block).values())
    norms, activation = _norms(block), _activation(block.mlp.act_fn)
    assert norms is not None and activation is not None
    qkv, out, gate_up, down = (packed(held.matrix) for each in linears if (held := one_matrix(each)) is not None)
    found = [bias_of(each) for each in linears]
    biases = Biases(*(None if bias is None else bias.float() for bias in found))
    made = NativeBlock(qkv, out, gate_up, down, _heads(attention, window), activation, norms, biases)
    return BlockInC(made, attention.layer_idx, kind, attention.use_rope)


def why_not(block: nn.Module) -> str | None:
    """Why torch is to run a block, as it is held, instead of C: the end of a sentence. None where C runs it."""
    if not isinstance(block, Block):
        return "they are not of Llama's shape"
    for names, layers in _linears(block).items():
        held = one_matrix(layers)
        if held is None:
            return f"{names} stays in floats, or is not one matrix"
        if not isinstance(held.kernel, InC):
            return f"{held.kernel.name} holds {names}"
    if _norms(block) is None:
        return "their norms are not known there"
    if _activation(block.mlp.act_fn) is None:
        return f"their activation is none of {', '.join(NUMBERS)}"
    return "their heads have no two halves" if block.self_attn.head_dim % 2 else None


def _linears(block: Block) -> dict[str, tuple[nn.Module, ...]]:
    """Layers of which C has one matrix."""
    attention, mlp = block.self_attn, block.mlp
    return {
        "q_proj, k_proj and v_proj": (attention.q_proj, attention.k_proj, attention.v_proj),
        "o_proj": (attention.o_proj,),
        "gate_proj and up_proj": (mlp.gate_proj, mlp.up_proj),
        "down_proj": (mlp.down_proj,),
    }


def _norms(block: Block) -> Norms | None:
    """None where one of them is of another kind than C knows."""
    attention = block.self_attn
    modules: list[nn.Module | None] = [block.input_layernorm, block.post_attention_layernorm, None, None]
    if block.has_norms_behind:
        modules = [block.input_layernorm, block.pre_feedforward_layernorm]
        modules += [block.post_attention_layernorm, block.post_feedforward_layernorm]
    modules += [getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)]
    before_attention, before_mlp, *others = map(_norm, modules)
    is_missing = any(norm is None and module is not None for module, norm in zip(modules[2:], others, strict=True))
    if before_attention is None or before_mlp is None or is_missing:
        return None
    return Norms(before_attention, before_mlp, *others)


def _norm(norm: nn.Module | None) -> Norm | None:
    if type(norm) is RMSNorm:
        return Norm(norm.weight.detach().float(), norm.eps)
    if type(norm) is ShiftedNorm:
        return Norm(norm.weight.detach().float() + 1.0, norm.eps)
    return None


def _heads(attention: Attention, window: int | None) -> Heads:
    counts = attention.num_heads, attention.num_kv_heads, attention.head_dim
    return Heads(*counts, attention.scaling, attention.softcap, window)


def _activation(function: object) -> int | None:
    """Its number in C."""
    for name, number in NUMBERS.items():
        if ACTIVATIONS.get(name) is function:
            return number
    return None


def _runs(kv: SessionKV, layer: int) -> list[tuple[int, int, int]]:
    """Where keys and values of a session begin, and how many rows lie there, one run after the other."""
    found = []
    for run in kv.runs_of(layer):
        keys, values, first = run.extent.keys[layer], run.extent.values[layer], run.first_row
        row_bytes = keys.element_size() * keys.stride(0)
        found.append((keys.data_ptr() + first * row_bytes, values.data_ptr() + first * row_bytes, run.num_rows))
    return found
