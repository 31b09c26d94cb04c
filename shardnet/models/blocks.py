"""The modules of units that `lean` runs, on the meta device: weights under the names that `transformers` gives them.

A block here is where its weights are; what is done with them is `lean`'s.

Shapes: T new tokens, H hidden size, d head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from shardnet.models.frequencies import frequencies, head_size
from shardnet.models.recipes import ACTIVATIONS, Recipe, setting


class RMSNorm(nn.Module):
    """Llama's: rounds before it multiplies by the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, device="meta"), requires_grad=False)
        self.eps = eps

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [..., size], each by itself."""
        wide = rows.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(rows.dtype)


class ShiftedNorm(RMSNorm):
    """Gemma's: multiplies by 1 + weight in float32, and rounds then."""

    def forward(self, rows: Tensor) -> Tensor:
        wide = rows.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * (1.0 + self.weight.float())).type_as(rows)


class Embedding(nn.Embedding):
    """Token ids -> hidden, multiplied by `scale`, which is rounded to the weights' dtype."""

    def __init__(self, num_tokens: int, hidden_size: int, scale: float | None) -> None:
        super().__init__(num_tokens, hidden_size, _weight=torch.empty(num_tokens, hidden_size, device="meta"))
        self.scale = None if scale is None else torch.tensor(scale)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = super().forward(ids)
        return hidden if self.scale is None else hidden * self.scale.to(self.weight.dtype)


class Rotary(nn.Module):
    """Makes rotary tables, for all blocks or for each kind of them."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, example: Tensor, positions: Tensor, kind: str | None = None) -> tuple[Tensor, Tensor]:
        """Cosine and sine [1, T, d] of positions [1, T], in the dtype of `example`."""
        per_position, scale = frequencies(self.config, kind)
        half = positions[..., None].float() * per_position
        angles = torch.cat((half, half), dim=-1)
        return (angles.cos() * scale).to(example.dtype), (angles.sin() * scale).to(example.dtype)


class Attention(nn.Module):
    """Projections and norms of a block's attention."""

    def __init__(self, config: Any, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.layer_idx = layer
        self.head_dim = head_size(config)
        self.num_heads: int = config.num_attention_heads
        self.num_kv_heads: int = config.num_key_value_heads
        scaled_by = self.head_dim if recipe.scaled_by is None else getattr(config, recipe.scaled_by)
        self.scaling: float = scaled_by**-0.5
        self.softcap: float | None = None if recipe.softcap is None else getattr(config, recipe.softcap)
        rotated = getattr(config, "no_rope_layers", None)
        self.use_rope = bool(rotated[layer]) if rotated else True
        hidden, width, kv_width = config.hidden_size, self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        has_bias = setting(config, recipe.qkv_bias)
        self.q_proj = linear(hidden, width, has_bias)
        self.k_proj = linear(hidden, kv_width, has_bias)
        self.v_proj = linear(hidden, kv_width, has_bias)
        self.o_proj = linear(width, hidden, setting(config, recipe.out_bias))
        if recipe.has_head_norms:
            self.q_norm = norm(recipe, self.head_dim, config)
            self.k_norm = norm(recipe, self.head_dim, config)


class FeedForward(nn.Module):
    """Projections of a block's gated feed-forward part."""

    def __init__(self, config: Any, recipe: Recipe) -> None:
        super().__init__()
        hidden, width, has_bias = config.hidden_size, config.intermediate_size, setting(config, recipe.mlp_bias)
        self.num_inner: int = width
        self.gate_proj = linear(hidden, width, has_bias)
        self.up_proj = linear(hidden, width, has_bias)
        self.down_proj = linear(width, hidden, has_bias)
        self.act_fn = ACTIVATIONS[getattr(config, recipe.activation)]


class Block(nn.Module):
    """One decoder block."""

    def __init__(self, config: Any, recipe: Recipe, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, recipe, layer)
        self.mlp = FeedForward(config, recipe)
        self.input_layernorm = norm(recipe, config.hidden_size, config)
        self.post_attention_layernorm = norm(recipe, config.hidden_size, config)
        self.has_norms_behind = recipe.has_norms_behind
        if recipe.has_norms_behind:
            self.pre_feedforward_layernorm = norm(recipe, config.hidden_size, config)
            self.post_feedforward_layernorm = norm(recipe, config.hidden_size, config)


def linear(num_inputs: int, num_outputs: int, has_bias: bool) -> nn.Linear:
    """Without weights. Its constructor would draw some, for which torch 2.8 imports sympy on the meta device."""
    module = nn.Linear.__new__(nn.Linear)
    nn.Module.__init__(module)
    module.in_features, module.out_features = num_inputs, num_outputs
    module.weight = nn.Parameter(torch.empty(num_outputs, num_inputs, device="meta"))
    bias = nn.Parameter(torch.empty(num_outputs, device="meta")) if has_bias else None
    module.register_parameter("bias", bias)
    return module


def norm(recipe: Recipe, size: int, config: Any) -> RMSNorm:
    """The family's, without its weight."""
    return (ShiftedNorm if recipe.shifts_norms else RMSNorm)(size, config.rms_norm_eps)
