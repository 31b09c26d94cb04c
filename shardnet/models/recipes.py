"""How the blocks of each family are made that `lean` runs: what differs from Llama's.

A device makes and runs these families without `transformers`. A configuration that asks for anything that is not
written here is not covered, and goes through the stock blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from shardnet.models.families import family_of
from shardnet.models.frequencies import KINDS, head_size, said_of

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
}
"""By their names in configurations."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a family's blocks are made of. The defaults are Llama's.

    Where a field takes the name of a setting, the configuration decides.
    """

    qkv_bias: str | bool = "attention_bias"
    out_bias: str | bool = "attention_bias"
    mlp_bias: str | bool = False
    activation: str = "hidden_act"
    """The setting that names it."""
    has_head_norms: bool = False
    """Norms over each head's queries and keys."""
    shifts_norms: bool = False
    """Norms multiply by 1 + weight, and round behind it (Gemma)."""
    has_norms_behind: bool = False
    """Norms before and behind each part of a block."""
    scales_embedding: bool = False
    """What is embedded is multiplied by the square root of the hidden size."""
    scaled_by: str | None = None
    """The setting whose square root divides the scores; the size of a head where None."""
    softcap: str | None = None
    """The setting that caps the scores."""


_GEMMA = Recipe(shifts_norms=True, scales_embedding=True)
_GEMMA2 = replace(_GEMMA, activation="hidden_activation", has_norms_behind=True, scaled_by="query_pre_attn_scalar")

RECIPES: dict[str, Recipe] = {
    **dict.fromkeys(("llama", "smollm3"), Recipe(mlp_bias="mlp_bias")),
    "seed_oss": Recipe(out_bias="attention_out_bias", mlp_bias="mlp_bias"),
    **dict.fromkeys(("mistral", "ministral"), Recipe(qkv_bias=False, out_bias=False)),
    "qwen2": Recipe(qkv_bias=True, out_bias=False),
    "qwen3": Recipe(has_head_norms=True),
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA2, softcap="attn_logit_softcapping"),
    "gemma3_text": replace(_GEMMA2, has_head_norms=True),
}
"""By the `model_type` of `config.json`."""


def recipe_of(config: Any) -> Recipe | None:
    """How the blocks of this configuration are made; None where that is not known here."""
    recipe = RECIPES.get(config.model_type)
    if recipe is None or getattr(config, recipe.activation, None) not in ACTIVATIONS:
        return None
    is_usual = getattr(config, "is_causal", True) and not getattr(config, "use_bidirectional_attention", False)
    if not is_usual or getattr(config, "per_layer_config", None):
        return None
    turned = family_of(config.model_type).turned
    kinds = {turned(config, layer) for layer in range(config.num_hidden_layers)}
    return recipe if all(_is_known(config, kind) for kind in kinds) else None


def setting(config: Any, name: str | bool) -> bool:
    """Whether the configuration, or the family for all of its models, wants something."""
    return bool(getattr(config, name)) if isinstance(name, str) else name


def _is_known(config: Any, kind: str | None) -> bool:
    """Whether its rotary tables are: over whole heads, of a kind that is reckoned here."""
    said = said_of(config, kind)
    if not isinstance(said, Mapping) or said.get("rope_type") not in KINDS:
        return False
    return said.get("partial_rotary_factor") in (None, 1.0) and head_size(config) > 2
