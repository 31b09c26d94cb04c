"""What a model's configuration may say: one table of fields, looked at before anything is built from it.

A size below 1 or beyond every model that there is, a word that nothing implements, a number that is not finite:
libraries take such values for granted, and fail much later, or take all memory. Knows neither files nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shardnet.errors import DamagedCheckpoint, ShardnetError
from shardnet.foreign.bounds import Amount, Bound, Count, extent_of
from shardnet.foreign.quoting import quoted

MOST_BLOCKS = 510
"""The deepest model that was published has 315; each block takes a millisecond or two to build, before any weight."""
MOST_VALUES = 10_000
"""In all lists and objects of a configuration together. transformers copies and compares them several times: a million
take 13 s. Real ones have hundreds; the names of a thousand classes would be 2,000."""
MOST_ROPE_FIELDS = 64
MOST_CONTEXT = 1 << 30
MOST_ID = 1 << 31

ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "n_embed"),
    "num_hidden_layers": ("n_layer", "num_layers"),
    "num_attention_heads": ("n_head", "num_heads"),
    "num_key_value_heads": ("num_kv_heads",),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size"),
    "max_position_embeddings": ("n_positions", "n_ctx", "seq_length"),
    "num_experts": ("num_local_experts",),
    "num_experts_per_tok": ("moe_topk",),
    "hidden_act": ("hidden_activation", "activation_function", "activation"),
    "dtype": ("torch_dtype",),
    "rope_theta": ("rotary_emb_base", "rope_local_base_freq"),
    "rms_norm_eps": ("layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"),
    "partial_rotary_factor": ("rotary_pct",),
    "attention_dropout": (
        "attn_pdrop", "resid_pdrop", "embd_pdrop", "dropout", "hidden_dropout", "embedding_dropout", "residual_dropout",
    ),
}  # fmt: skip
"""What families call the same thing (`attribute_map` of transformers' configurations, and what older files say)."""


@dataclass(frozen=True, slots=True)
class Words:
    """A field that names something which transformers implements."""

    words: frozenset[str]

    def fault(self, value: Any) -> str | None:
        if isinstance(value, str) and value in self.words:
            return None
        return f"must be one of {', '.join(sorted(self.words))}, but is {quoted(value)} instead"


_POSITIVE = Amount(1e9, above_zero=True)
_SHARE = Amount(1)
_WIDTH = Count(1, 1 << 18)
_HEADS = Count(1, 1 << 14)
_INNER = Count(1, 1 << 22)
_TOKENS = Count(1, MOST_CONTEXT)
_EXPERTS = Count(0, 1 << 14)

ACTIVATIONS = frozenset((
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh", "gelu_pytorch_tanh",
    "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu", "relu", "relu2", "relu6", "sigmoid",
    "silu", "sqrtsoftplus", "swish", "tanh", "xielu",
))  # fmt: skip
ROPE_TYPES = frozenset(("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional", "su"))
"""`su` is what older Phi-3 files call longrope."""
DTYPES = frozenset((
    "float16", "bfloat16", "float32", "float64", "half", "float", "double", "float8_e4m3fn", "float8_e5m2",
))  # fmt: skip

FIELDS: dict[str, Bound] = {
    "hidden_size": _WIDTH,
    "num_hidden_layers": Count(1, MOST_BLOCKS),
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _HEADS,
    "head_dim": Count(1, 1 << 14),
    "intermediate_size": _INNER,
    "moe_intermediate_size": _INNER,
    "shared_expert_intermediate_size": Count(0, 1 << 22),
    "shared_intermediate_size": Count(0, 1 << 22),
    "word_embed_proj_dim": _WIDTH,
    "vocab_size": Count(1, 1 << 24),
    "max_position_embeddings": _TOKENS,
    "original_max_position_embeddings": _TOKENS,
    "rotary_dim": Count(1, 1 << 14),
    "sliding_window": Count(0, MOST_CONTEXT),
    "num_experts": _EXPERTS,
    "num_experts_per_tok": _EXPERTS,
    "decoder_sparse_step": Count(1, MOST_BLOCKS),
    "no_rope_layer_interval": Count(1, MOST_BLOCKS),
    "num_labels": Count(0, 1 << 11),
    "bos_token_id": Count(-1, MOST_ID),
    "eos_token_id": Count(0, MOST_ID),
    "pad_token_id": Count(-1, MOST_ID),
    "rope_theta": Amount(1e15, above_zero=True, smallest=1.0),
    "partial_rotary_factor": Amount(1, above_zero=True),
    "rms_norm_eps": _SHARE,
    "attention_dropout": _SHARE,
    "clip_qkv": _POSITIVE,
    "query_pre_attn_scalar": _POSITIVE,
    "attn_logit_softcapping": _POSITIVE,
    "final_logit_softcapping": _POSITIVE,
    "logit_scale": _POSITIVE,
    "logits_scaling": _POSITIVE,
    "embedding_multiplier": _POSITIVE,
    "residual_multiplier": _POSITIVE,
    "attention_multiplier": _POSITIVE,
    "hidden_act": Words(ACTIVATIONS),
    "dtype": Words(DTYPES),
}
"""What each field may be, beside `null`."""
LISTED = frozenset((
    "intermediate_size", "moe_intermediate_size", "num_experts", "num_experts_per_tok", "bos_token_id", "eos_token_id",
    "short_factor", "long_factor",
))  # fmt: skip
"""Fields that may be a list of such values: one for each block, several ids."""
ROPE_FIELDS: dict[str, Bound] = {
    "rope_type": Words(ROPE_TYPES),
    "type": Words(ROPE_TYPES),
    "rope_theta": FIELDS["rope_theta"],
    "partial_rotary_factor": FIELDS["partial_rotary_factor"],
    "original_max_position_embeddings": _TOKENS,
    "factor": _POSITIVE,
    "short_factor": _POSITIVE,
    "long_factor": _POSITIVE,
    "low_freq_factor": _POSITIVE,
    "high_freq_factor": _POSITIVE,
    "beta_fast": _POSITIVE,
    "beta_slow": _POSITIVE,
    "attention_factor": _POSITIVE,
    "mscale": Amount(1e9),
    "mscale_all_dim": Amount(1e9),
    "llama_4_scaling_beta": Amount(1e9),
}
WITHOUT_PADDING = frozenset(("bloom", "falcon", "gpt2", "gpt_neox", "gptj"))
"""Families whose embeddings take no number of a padding token; those of the others cannot be made with one outside."""
_CANONICAL = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
_ROPE_PLACES = ("rope_parameters", "rope_scaling")


def check_config(config: Mapping[str, Any], shown: str, error: type[ShardnetError] = DamagedCheckpoint) -> None:
    """See that a configuration says nothing impossible: each field, nested ones too, and fields beside each other.

    Args:
        config: as `config.json` has it.
        shown: what messages call it.

    Raises:
        error: it does.
    """
    for fault in _faults(config, ""):
        raise error(f"{shown}: {fault}. Correct it, or download the file again.")


def numbers_of(config: Mapping[str, Any]) -> dict[str, int]:
    """The whole numbers of a checked configuration, by the names of `FIELDS`."""
    return {_CANONICAL.get(key, key): value for key, value in config.items() if type(value) is int}


def fault_of(name: str, value: Any, table: Mapping[str, Bound] = FIELDS) -> str | None:
    """What is wrong with the value of a field, by its name in the table; None where nothing is, or nothing is known."""
    bound = table.get(name)
    if bound is None or value is None:
        return None
    listed = value if name in LISTED and isinstance(value, list) else [value]
    return next((fault for each in listed if (fault := bound.fault(each)) is not None), None)


def _faults(config: Mapping[str, Any], prefix: str) -> Iterator[str]:
    count, _ = extent_of(config)
    if count > MOST_VALUES:
        yield f"it holds {count} values, and no configuration needs more than {MOST_VALUES}"
    for key, value in config.items():
        if (fault := fault_of(_CANONICAL.get(key, key), value)) is not None:
            yield f"{prefix}{key} {fault}"
        elif key in _ROPE_PLACES:
            yield from _rope_faults(value, prefix + key)
        elif key in ("quantization_config", "text_config") and not isinstance(value, (Mapping, type(None))):
            yield f"{prefix}{key} must be an object, but is {quoted(value)} instead"
        elif key == "text_config" and value:
            yield from _faults(value, f"{prefix}text_config.")
    yield from _contradictions(config, numbers_of(config))


def _rope_faults(rope: Any, place: str) -> Iterator[str]:
    """Of a description of rotary positions, or of one for each kind of block."""
    if not isinstance(rope, (Mapping, type(None))):
        yield f"{place} must be an object, but is {quoted(rope)} instead"
        return
    rope = rope or {}
    if len(rope) > MOST_ROPE_FIELDS:
        yield f"{place} has {len(rope)} fields, more than the {MOST_ROPE_FIELDS} that it may have"
    for key, value in rope.items():
        if isinstance(value, Mapping):
            yield from _rope_faults(value, f"{place}.{key}")
        elif (fault := fault_of(key, value, ROPE_FIELDS)) is not None:
            yield f"{place}.{key} {fault}"
    low, high = rope.get("low_freq_factor"), rope.get("high_freq_factor")
    if low is not None and high is not None and low >= high:
        yield f"{place} has a low_freq_factor of {low} and a high_freq_factor of {high}, which must be larger"


def _contradictions(config: Mapping[str, Any], numbers: Mapping[str, int]) -> Iterator[str]:
    """Fields that are possible by themselves and not beside each other."""
    yield from _head_faults(config, numbers)
    yield from _rotary_faults(config, numbers)
    yield from _padding_faults(config, numbers)
    experts, active = numbers.get("num_experts"), numbers.get("num_experts_per_tok")
    if experts is not None and active is not None and active > max(experts, 1):
        yield f"it has {experts} experts and uses {active} for each token"
    if numbers.get("sliding_window") == 0 and config.get("use_sliding_window") is not False:
        yield "its sliding_window is 0 tokens; null means that there is none"


def _head_faults(config: Mapping[str, Any], numbers: Mapping[str, int]) -> Iterator[str]:
    heads, hidden = numbers.get("num_attention_heads"), numbers.get("hidden_size")
    kv_heads = numbers.get("num_key_value_heads")
    if config.get("model_type") == "falcon" and not config.get("new_decoder_architecture"):
        kv_heads = None  # its configuration has the number and its blocks do not use it
    if heads and kv_heads and heads % kv_heads:
        yield f"it has {heads} heads and {kv_heads} key-value heads, and the first must be a multiple of the second"
    if heads and hidden and hidden % heads and "head_dim" not in numbers:
        yield f"it has a hidden size of {hidden} and {heads} heads, and the first must be a multiple of the second"


def _rotary_faults(config: Mapping[str, Any], numbers: Mapping[str, int]) -> Iterator[str]:
    hidden, heads = numbers.get("hidden_size") or 0, numbers.get("num_attention_heads")
    head_dim = numbers.get("head_dim", hidden // (heads or 1))
    rotary = numbers.get("rotary_dim")
    if rotary and head_dim and (rotary > head_dim or rotary % 2):
        yield f"its rotary_dim is {rotary} and its heads have the size {head_dim}; it must be even and no larger"
    if head_dim % 2 and (heads or "head_dim" in numbers) and not rotary and _turns_whole_heads(config):
        yield f"its heads have the size {head_dim}, and positions turn pairs of their numbers: it must be even"


def _turns_whole_heads(config: Mapping[str, Any]) -> bool:
    """Whether positions turn all numbers of a head in some block."""
    named = {_CANONICAL.get(key, key): value for key, value in config.items()}
    said = [rope for place in _ROPE_PLACES if isinstance(rope := config.get(place), Mapping)]
    said += [rope for ropes in said for rope in ropes.values() if isinstance(rope, Mapping)]
    parts = [each.get("partial_rotary_factor") for each in (named, *said)]
    turned = named.get("no_rope_layers")  # 0 where a block's are not
    is_turned = ("rope_theta" in named or said) and not named.get("alibi")
    return bool(is_turned) and all(part in (None, 1) for part in parts) and (not turned or any(turned))


def _padding_faults(config: Mapping[str, Any], numbers: Mapping[str, int]) -> Iterator[str]:
    vocab, pad = numbers.get("vocab_size"), numbers.get("pad_token_id")
    if vocab and pad is not None and pad >= vocab and config.get("model_type") not in WITHOUT_PADDING:
        yield f"its pad_token_id is {pad}, and its vocabulary has {vocab} tokens"
