"""The table of model families: the one place that says what is particular to each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardnet.errors import UnsupportedModel
from shardnet.models.family import Family, embed_tokens, rotary_by_layer_type
from shardnet.models.own_attention import bloom_arguments, falcon_arguments, falcon_kv, gptj_arguments
from shardnet.models.windows import same_window, window_by_layer_type

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


FAMILIES: tuple[Family, ...] = (
    # Llama's shape, block for block.
    Family(("llama", "seed_oss"), lean=True),
    Family(("mistral",), lean=True, window=same_window),
    Family(("ministral", "qwen2", "qwen3", "smollm3"), lean=True, window=window_by_layer_type),
    Family(("apertus", "arcee", "ernie4_5", "helium", "hunyuan_v1_dense")),
    Family(("gemma", "glm", "glm4", "stablelm", "olmo", "olmo2", "nemotron")),
    Family(("ministral3", "phi3", "starcoder2"), window=same_window),
    Family(("cwm", "exaone4"), window=window_by_layer_type),
    # Experts.
    Family(("olmoe", "flex_olmo", "hunyuan_v1_moe")),
    Family(("mixtral", "qwen3_moe", "phimoe"), window=same_window),
    Family(("qwen2_moe",), window=window_by_layer_type),
    Family(("phi", "persimmon"), head=("final_layernorm",)),
    # Logits are capped (Gemma 2), and blocks turn with two base frequencies (Gemma 3, OLMo 3).
    Family(("gemma2", "vaultgemma"), finish=_cap_logits, window=window_by_layer_type),
    Family(("gemma3_text",), finish=_cap_logits, rotate=rotary_by_layer_type, window=window_by_layer_type),
    Family(("olmo3",), rotate=rotary_by_layer_type, window=window_by_layer_type),
    # Multipliers.
    Family(("granite", "granitemoe", "granitemoeshared"), embed=_embed_scaled, finish=_divide_logits),
    Family(("cohere",), finish=_scale_logits),
    Family(("cohere2",), finish=_scale_logits, window=window_by_layer_type),
    # Other names, learned positions.
    Family(
        ("gpt_neox",),
        base="gpt_neox",
        embedding=("embed_in",),
        head=("final_layer_norm",),
        cache_argument="layer_past",
    ),
    Family(
        ("gpt2",),
        base="transformer",
        embedding=("wte", "wpe"),
        blocks="h",
        head=("ln_f",),
        rotary=None,
        embed=_embed_with_positions,
    ),
    Family(
        ("opt",),
        base="model.decoder",
        embedding=("embed_tokens", "embed_positions", "project_in"),
        head=("final_layer_norm", "project_out"),
        rotary=None,
        embed=_embed_opt,
    ),
    # Attention code of their own: one session at a time.
    Family(
        ("bloom",),
        base="transformer",
        embedding=("word_embeddings", "word_embeddings_layernorm"),
        blocks="h",
        head=("ln_f",),
        rotary=None,
        embed=_embed_and_normalise,
        cache_argument="layer_past",
        alone=bloom_arguments,
        attention="eager",
    ),
    Family(
        ("falcon",),
        base="transformer",
        embedding=("word_embeddings",),
        blocks="h",
        head=("ln_f",),
        kv=falcon_kv,
        cache_argument="layer_past",
        alone=falcon_arguments,
        attention="sdpa",
    ),
    Family(
        ("gptj",),
        base="transformer",
        embedding=("wte",),
        blocks="h",
        head=("ln_f",),
        rotary=None,
        cache_argument="layer_past",
        alone=gptj_arguments,
        attention="eager",
    ),
)

_BY_TYPE = {model_type: family for family in FAMILIES for model_type in family.model_types}


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
