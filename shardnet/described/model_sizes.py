"""How large a model's units are and how much work one token is, from its configuration alone.

For models that are not on disk, and for planning before anything is loaded. Imports neither torch nor transformers.
Parameter counts equal those of the skeletons in `transformers` (tests/described/test_model_sizes.py holds that).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from shardnet.codecs.names import CODECS, row_bytes
from shardnet.described.schema import require
from shardnet.errors import BadConfiguration, UnsupportedModel
from shardnet.foreign.bounds import Count, Name, bounds_of, check_fields
from shardnet.foreign.config_bounds import check_config
from shardnet.foreign.quoting import quoted
from shardnet.models.facts import FACTS, Sizes
from shardnet.models.heads import SCORE_BYTES, check_head, num_labels_of
from shardnet.plan import DTYPE_BYTES, ModelProfile, UnitProfile
from shardnet.quantised.kv_names import AUTO as KV_AUTO
from shardnet.quantised.kv_names import KV_DTYPES, head_bytes
from shardnet.quantised.schemes import AUTO, SCHEMES, form_of

TOKEN_ID_BYTES = 8
MAX_BLOCKS = 4094
"""With the embedding and the head as many units as a problem may have."""
_WIDTH = Count(1, 10**7)
_LENGTH = Count(1, 10**9)
"""Of a vocabulary, of a context."""
_BYTES_PER_WEIGHT = {32: 4.0, 16: 2.0, 8: 1.0, 4: 0.625}
"""4 bits: groups of 32 weights share a bfloat16 scale and zero, one bit a weight. 8 bits: a scale a row, ignored."""


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of a decoder, in numbers."""

    name: Annotated[str, Name()]
    family: Annotated[str, Name()]
    hidden: Annotated[int, _WIDTH]
    blocks: Annotated[int, Count(1, MAX_BLOCKS)]
    heads: Annotated[int, _WIDTH]
    intermediate: Annotated[int, _WIDTH]
    vocab: Annotated[int, _LENGTH]
    context_tokens: Annotated[int, _LENGTH]
    kv_heads: Annotated[int | None, _WIDTH] = None
    """Heads of keys and values; as many as `heads` where absent."""
    head_dim: Annotated[int | None, _WIDTH] = None
    """hidden / heads where absent."""
    tied: bool = False
    """The head multiplies by the embedding's weights."""
    gated: bool = True
    """Three matrices in the feed-forward part (gate, up, down), else two."""
    attention_bias: str = "none"
    """`none`, `qkv` (queries, keys and values), or `all` (the output projection too)."""
    mlp_bias: bool = False
    norm_bias: bool = False
    norms_per_block: Annotated[int, Count(1, 100)] = 2
    qk_norm: bool = False
    """A norm over each head's queries and keys."""
    learned_positions: Annotated[int, Count(0, 10**9)] = 0
    embedding_norm: bool = False
    experts: Annotated[int, Count(0, 10**5)] = 0
    experts_per_token: Annotated[int, Count(0, 10**5)] = 0
    sliding_window: Annotated[int, Count(0, 10**9)] = 0
    """Tokens that a local block sees; 0: every block sees all."""
    global_every: Annotated[int, Count(1, 10**5)] = 1
    """With a sliding window: each n-th block sees all tokens."""
    labels: Annotated[int, Count(0, 10**5)] = 0
    """Of a classifier: its head has a row for each of these, and not for each token; 0: it writes text."""
    about: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        require(
            self.heads % self.num_kv_heads == 0,
            f"heads ({self.heads}) must be a multiple of kv_heads ({self.num_kv_heads}).",
        )
        require(self.size_of_head > 0, f"hidden ({self.hidden}) must be at least heads ({self.heads}).")
        require(
            self.attention_bias in ("none", "qkv", "all"),
            f"attention_bias must be none, qkv or all, but is {quoted(self.attention_bias)}.",
        )
        require(
            0 <= self.experts_per_token <= self.experts,
            f"experts_per_token ({self.experts_per_token}) must be between 0 and experts ({self.experts}).",
        )
        require(
            bool(self.experts) == bool(self.experts_per_token), "experts and experts_per_token must be given together."
        )

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def size_of_head(self) -> int:
        return self.head_dim or self.hidden // self.heads


@dataclass(frozen=True)
class UnitWork:
    """What one unit costs: to hold, and to run for one token."""

    name: str
    num_parameters: int
    weight_bytes: int
    kv_bytes_per_token: float
    """Of one session; for a block with a sliding window the mean over the context."""
    output_bytes: int
    read_bytes: float
    """Weights that one step reads from memory."""
    flops_per_token: float
    """Without attention over the cache."""
    attention_flops_per_cached_token: float


def unit_works(
    model: ModelConfig,
    dtype: str = "float16",
    bits: int | None = None,
    context_tokens: int = 0,
    step_tokens: int = 1,
    wire: str | None = None,
    kv_dtype: str = KV_AUTO,
    weights: str = AUTO,
) -> tuple[UnitWork, ...]:
    """The embedding, each block, the head.

    Args:
        dtype: of what is not quantised.
        bits: of the linear layers' weights (32, 16, 8, 4); those of `dtype` where None.
        context_tokens: for the mean KV cache of sliding windows; the model's own context where 0.
        step_tokens: tokens in one step; with experts more of them are read.
        wire: the codec of what travels; `dtype` where None.
        kv_dtype: of the KV cache; auto: `dtype`.
        weights: a scheme of few bits, in which embedding and head are held, too, in place of `bits`.

    Raises:
        BadConfiguration: an unknown dtype, scheme or number of bits.
    """
    size = _dtype_bytes(dtype)
    plain = float(size) if bits is None else _bytes_per_weight(bits)
    linear = _bytes_in(weights, model.hidden, plain, is_table=False)
    context = context_tokens or model.context_tokens
    sent_bytes = _row_bytes(wire or dtype, model.hidden)
    embedding, matrix = _embedding_parameters(model), model.vocab * model.hidden
    table = _bytes_in(weights, model.hidden, float(size), is_table=True)
    embedding_bytes = round(matrix * table) + (embedding - matrix) * size
    rows = step_tokens * model.hidden * table
    units = [UnitWork("embedding", embedding, embedding_bytes, 0.0, sent_bytes, rows, 0.0, 0.0)]
    for index in range(model.blocks):
        kv = 2 * model.num_kv_heads * _head_bytes(kv_dtype, model.size_of_head, size)
        seen = _seen_tokens(model, index, context)
        attention, experts, small = _block_parameters(model)
        held = attention + experts * max(1, model.experts)
        active = attention + experts * max(1, min(model.experts, model.experts_per_token * step_tokens))
        flops = 2.0 * (attention + experts * max(1, model.experts_per_token))
        units.append(
            UnitWork(
                name=f"block {index}",
                num_parameters=held + small,
                weight_bytes=round(held * linear) + small * size,
                kv_bytes_per_token=kv * seen / context,
                output_bytes=sent_bytes,
                read_bytes=active * linear + small * size,
                flops_per_token=flops,
                attention_flops_per_cached_token=4.0 * model.heads * model.size_of_head * seen / context,
            )
        )
    units.append(_head_work(model, weights, size, plain))
    return tuple(units)


def _head_work(model: ModelConfig, weights: str, size: int, plain: float) -> UnitWork:
    """
    Args:
        size: of a number in the model's dtype.
        plain: of one of the head's matrix, where `weights` leaves it in floats.
    """
    norm = model.hidden * (2 if model.norm_bias else 1)
    if model.labels:  # whose matrix is held in no few bits, and is nobody else's
        own = model.labels * model.hidden
        head = float((own + norm) * size)
        told_bytes = SCORE_BYTES * model.labels
        return UnitWork("head", own + norm, round(head), 0.0, told_bytes, head, 2.0 * own, 0.0)
    matrix = model.vocab * model.hidden
    # Tied weights are the embedding's own, in its dtype; on the embedding's device they need not be held twice.
    head = matrix * _bytes_in(weights, model.hidden, size if model.tied else plain, is_table=True) + norm * size
    own = norm if model.tied else matrix + norm
    return UnitWork("head", own, round(head), 0.0, TOKEN_ID_BYTES, head, 2.0 * matrix, 0.0)


def model_profile(
    model: ModelConfig, dtype: str = "float16", bits: int | None = None, context_tokens: int = 0
) -> ModelProfile:
    """The same as the record that the loader makes of a model on disk."""
    units = tuple(
        UnitProfile(u.name, u.weight_bytes, round(u.kv_bytes_per_token), u.output_bytes, u.num_parameters)
        for u in unit_works(model, dtype, bits, context_tokens)
    )
    return ModelProfile(model.name, model.family, dtype, units, context_tokens or model.context_tokens)


def _dtype_bytes(dtype: str) -> int:
    if dtype not in DTYPE_BYTES:
        raise BadConfiguration(f"unknown dtype {quoted(dtype)}; use one of {', '.join(DTYPE_BYTES)}.")
    return DTYPE_BYTES[dtype]


def _row_bytes(codec: str, hidden_size: int) -> int:
    if codec not in CODECS:
        raise BadConfiguration(f"hidden states do not travel as {quoted(codec)}; use one of {', '.join(CODECS)}.")
    return row_bytes(codec, hidden_size)


def _head_bytes(kv_dtype: str, head_dim: int, item_bytes: int) -> int:
    if kv_dtype not in KV_DTYPES:
        raise BadConfiguration(
            f"keys and values are not kept as {quoted(kv_dtype)}; use one of {', '.join(KV_DTYPES)}."
        )
    return head_bytes(kv_dtype, head_dim, item_bytes)


def _bytes_per_weight(bits: int) -> float:
    if bits not in _BYTES_PER_WEIGHT:
        raise BadConfiguration(f"weights of {bits} bits are unknown; use one of 4, 8, 16, 32.")
    return _BYTES_PER_WEIGHT[bits]


def _bytes_in(weights: str, num_inputs: int, otherwise: float, *, is_table: bool) -> float:
    """Bytes of a weight that is held so, its part of scales and minima, too; `otherwise` where it stays a float.

    Args:
        num_inputs: of its row: those of nearly all matrices have the hidden size.
    """
    if weights not in SCHEMES:
        raise BadConfiguration(f"weights are not held as {quoted(weights)}; use one of {', '.join(SCHEMES)}.")
    form = form_of(weights, "", num_inputs, is_table=is_table)
    return otherwise if form is None or not form.fits(num_inputs) else form.num_bytes(1, num_inputs) / num_inputs


def _seen_tokens(model: ModelConfig, index: int, context: int) -> int:
    is_global = not model.sliding_window or (index + 1) % model.global_every == 0
    return context if is_global else min(context, model.sliding_window)


def _embedding_parameters(model: ModelConfig) -> int:
    norm = model.hidden * (2 if model.norm_bias else 1) if model.embedding_norm else 0
    return (model.vocab + model.learned_positions) * model.hidden + norm


def _block_parameters(model: ModelConfig) -> tuple[int, int, int]:
    """Attention (with the router of experts), one feed-forward part, and norms with biases."""
    queries = model.heads * model.size_of_head
    keys = model.num_kv_heads * model.size_of_head
    attention = model.hidden * (2 * queries + 2 * keys) + model.hidden * model.experts
    feed_forward = (3 if model.gated else 2) * model.hidden * model.intermediate
    small = model.norms_per_block * model.hidden * (2 if model.norm_bias else 1)
    small += 2 * model.size_of_head if model.qk_norm else 0
    small += queries + 2 * keys if model.attention_bias != "none" else 0
    small += model.hidden if model.attention_bias == "all" else 0
    small += model.hidden + model.intermediate * (2 if model.gated else 1) if model.mlp_bias else 0
    return attention, feed_forward, small


def model_config_from_hf(config: Mapping[str, Any], name: str) -> ModelConfig:
    """From the `config.json` of a model folder in Hugging Face layout.

    Raises:
        UnsupportedModel: a family whose sizes are not known from its configuration.
        BadConfiguration: it says something impossible.
    """
    check_config(config, f"{name}: config.json", BadConfiguration)
    check_head(config, f"{name}: config.json")
    labels = num_labels_of(config)
    if isinstance(config.get("text_config"), Mapping):
        config = config["text_config"]
    family = str(config.get("model_type", ""))
    sizes = FACTS[family].sizes if family in FACTS else None
    if sizes is None:
        known = ", ".join(sorted(name for name, facts in FACTS.items() if facts.sizes is not None))
        raise UnsupportedModel(
            f"{name}: sizes of the family {quoted(family or 'unknown')} are not known from its configuration; "
            f"known are {known}. Write a model file with its numbers instead (docs/planning.md)."
        )
    said = _hf_numbers(config, name)
    for field in sizes.unused:
        said.pop(field, None)
    numbers: dict[str, Any] = {"intermediate": 4 * said["hidden"], "context_tokens": sizes.context_tokens, **said}
    if sizes.positions is not None:
        numbers["learned_positions"] = numbers["context_tokens"] + sizes.positions
    numbers.update(_hf_windows(config, sizes, name))
    asks_for_bias = sizes.may_ask_for_bias and config.get("attention_bias")
    return ModelConfig(
        name=name,
        family=family,
        tied=bool(config.get("tie_word_embeddings", sizes.tied)),
        gated=sizes.gated,
        attention_bias="all" if asks_for_bias else sizes.attention_bias,
        mlp_bias=sizes.mlp_bias,
        norm_bias=sizes.norm_bias,
        norms_per_block=sizes.norms_per_block,
        qk_norm=sizes.qk_norm,
        embedding_norm=sizes.embedding_norm,
        labels=labels,
        **numbers,
    )


def _hf_numbers(config: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What the configuration says, by the names of `ModelConfig`."""
    found = {field: _first(config, field, model) for field in _HF_NAMES}
    missing = [field for field in ("hidden", "blocks", "heads", "vocab") if found[field] is None]
    if missing:
        raise BadConfiguration(f"{model}: config.json says nothing of {', '.join(missing)}; is it complete?")
    return {field: value for field, value in found.items() if value is not None}


_HF_NAMES = {
    "hidden": ("hidden_size", "n_embd", "n_embed"),
    "blocks": ("num_hidden_layers", "n_layer"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "intermediate": ("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim"),
    "vocab": ("vocab_size",),
    "context_tokens": ("max_position_embeddings", "n_positions", "seq_length"),
    "experts": ("num_local_experts", "num_experts"),
    "experts_per_token": ("num_experts_per_tok",),
}


def _first(config: Mapping[str, Any], field: str, model: str, names: tuple[str, ...] = ()) -> Any:
    """The number of a field of `ModelConfig`, within its bounds, under the first name that the configuration has."""
    name = next((each for each in names or _HF_NAMES[field] if config.get(each) is not None), None)
    if name is None:
        return None
    fault = next(bound for key, bound, _ in bounds_of(ModelConfig) if key == field).fault(config[name])
    if fault is not None:
        raise BadConfiguration(f"{model}: config.json: {name} {fault}.")
    return config[name]


def _hf_windows(config: Mapping[str, Any], sizes: Sizes, model: str) -> dict[str, int]:
    window = _first(config, "sliding_window", model, ("sliding_window",)) if sizes.global_every else None
    if not window:
        return {}
    said = _first(config, "global_every", model, ("sliding_window_pattern",)) if sizes.names_global else None
    return {"sliding_window": window, "global_every": said or sizes.global_every}
