"""Which blocks have all but their attention in C: those whose matrices the products in C hold, all of them.

Norms of heads, norms behind the parts of a block, and other activations than these are left to torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from shardnet.models.blocks import Block, RMSNorm, ShiftedNorm
from shardnet.models.recipes import ACTIVATIONS
from shardnet.quantised.kernels.native import InC, native, packed
from shardnet.quantised.linear import bias_of, one_matrix
from shardnet.quantised.native.block import ACTIVATIONS as NUMBERS
from shardnet.quantised.native.block import NativeBlock, Norm
from shardnet.quantised.native.packing import Packed
from shardnet.quantised.native.products import Native


def native_block(block: Block) -> NativeBlock | None:
    """The block's halves in C, with the weights that it has now; None where torch is to do it."""
    attention, mlp = block.self_attn, block.mlp
    linears = (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (attention.o_proj,),
        (mlp.gate_proj, mlp.up_proj),
        (mlp.down_proj,),
    )
    qkv, out, gate_up, down = (_packed(each) for each in linears)
    before, behind = _norm(block.input_layernorm), _norm(block.post_attention_layernorm)
    activation = _activation(mlp.act_fn)
    own = native()
    if qkv is None or out is None or gate_up is None or down is None or not isinstance(own, Native):
        return None
    has_more = block.has_norms_behind or hasattr(attention, "q_norm")
    if has_more or before is None or behind is None or activation is None:
        return None
    num_turned = attention.num_heads + attention.num_kv_heads if attention.use_rope else 0
    found = [bias_of(each) for each in linears]
    biases = (None if bias is None else bias.float() for bias in found)
    return NativeBlock(
        own, qkv, out, gate_up, down, before, behind, attention.head_dim, num_turned, activation, *biases
    )


def _packed(linears: Sequence[nn.Module]) -> Packed | None:
    """The matrix that these layers are, where C holds it."""
    held = one_matrix(linears)
    return packed(held.matrix) if held is not None and isinstance(held.kernel, InC) else None


def _norm(norm: nn.Module) -> Norm | None:
    if type(norm) is RMSNorm:
        return Norm(norm.weight.detach().float(), norm.eps)
    if type(norm) is ShiftedNorm:
        return Norm(norm.weight.detach().float() + 1.0, norm.eps)
    return None


def _activation(function: object) -> int | None:
    """Its number in C."""
    for name, number in NUMBERS.items():
        if ACTIVATIONS.get(name) is function:
            return number
    return None
