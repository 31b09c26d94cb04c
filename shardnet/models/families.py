"""How the blocks of each family are called, beside what `facts` knows of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shardnet.errors import UnsupportedModel
from shardnet.models.facts import FACTS
from shardnet.models.family import Family, embed_tokens, turned_by_layer_type
from shardnet.models.own_attention import bloom_arguments, falcon_arguments, falcon_kv, gptj_arguments

if TYPE_CHECKING:
    from torch import Tensor

    from shardnet.models.family import Modules


def _embed_with_positions(modules: Modules, config: Any, ids: Tensor, positions: Tensor) -> Tensor:
    tokens, places = modules
    return tokens(ids) + places(positions)


def _embed_opt(modules: Modules, config: Any, ids: Tensor, positions: Tensor) -> Tensor:
    tokens, places, *project_in = modules
    hidden = tokens(ids)
    for projection in project_in:
        hidden = projection(hidden)
    return hidden + places(None, 0, position_ids=positions)  # the module itself adds OPT's offset of 2


def _embed_and_normalise(modules: Modules, config: Any, ids: Tensor, positions: Tensor) -> Tensor:
    tokens, norm = modules
    return norm(tokens(ids))


def _embed_scaled(modules: Modules, config: Any, ids: Tensor, positions: Tensor) -> Tensor:
    return embed_tokens(modules, config, ids, positions) * config.embedding_multiplier


def _cap_logits(config: Any, logits: Tensor) -> Tensor:
    cap = config.final_logit_softcapping
    return logits if cap is None else (logits / cap).tanh() * cap


def _divide_logits(config: Any, logits: Tensor) -> Tensor:
    return logits / config.logits_scaling


def _scale_logits(config: Any, logits: Tensor) -> Tensor:
    return logits * config.logit_scale


_CALLED: dict[str, Family] = {
    # Logits are capped (Gemma 2), and blocks turn with two base frequencies (Gemma 3, OLMo 3).
    **dict.fromkeys(("gemma2", "vaultgemma"), Family(finish=_cap_logits)),
    "gemma3_text": Family(finish=_cap_logits, turned=turned_by_layer_type),
    "olmo3": Family(turned=turned_by_layer_type),
    # Multipliers.
    **dict.fromkeys(("granite", "granitemoe", "granitemoeshared"), Family(embed=_embed_scaled, finish=_divide_logits)),
    **dict.fromkeys(("cohere", "cohere2"), Family(finish=_scale_logits)),
    # Learned positions.
    "gpt_neox": Family(cache_argument="layer_past"),
    "gpt2": Family(embed=_embed_with_positions),
    "opt": Family(embed=_embed_opt),
    # Attention code of their own: one session at a time.
    "bloom": Family(embed=_embed_and_normalise, cache_argument="layer_past", alone=bloom_arguments, attention="eager"),
    "falcon": Family(kv=falcon_kv, cache_argument="layer_past", alone=falcon_arguments, attention="sdpa"),
    "gptj": Family(cache_argument="layer_past", alone=gptj_arguments, attention="eager"),
}
"""Those whose blocks are not called as Llama's are."""

_BY_TYPE = {name: replace(_CALLED.get(name, Family()), facts=facts) for name, facts in FACTS.items()}


def supported_families() -> tuple[str, ...]:
    """The supported `model_type`s, sorted."""
    return tuple(sorted(_BY_TYPE))


def family_of(model_type: str) -> Family:
    """The entry of a family.

    Raises:
        UnsupportedModel: the family is not in the table.
    """
    if model_type not in _BY_TYPE:
        raise UnsupportedModel(
            f"Models of the family {model_type!r} are not supported. Supported: {', '.join(supported_families())}."
        )
    return _BY_TYPE[model_type]
