"""What a GGUF file says of attention and transformers passes over: the window, how much of a head turns, how fast.

What can be said in a configuration is said there; what cannot is refused, since a model that sees further, or turns
other dimensions, answers wrongly in silence. How positions are scaled: see `rope`.
"""

from __future__ import annotations

from typing import Any

from shardnet.errors import UnsupportedModel
from shardnet.foreign.config_bounds import numbers_of
from shardnet.loader.gguf.header import GgufHeader
from shardnet.models.facts import FACTS
from shardnet.models.windows import same_window


def attention_of(header: GgufHeader, raw: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that the file asks for, beside those that transformers reads from it.

    Args:
        raw: the configuration that transformers reads.

    Raises:
        UnsupportedModel: models of that family cannot do what it asks for.
    """
    return _window_of(header, raw) | _turning_of(header, raw) | _theta_of(header, raw)


def check_turning(header: GgufHeader, config: Any, frame: Any) -> None:
    """See that a model of the configuration turns as much of a head as the file says.

    Args:
        frame: a transformers model of `config`, of any depth.

    Raises:
        UnsupportedModel: it does not, whatever the configuration asks for.
    """
    dims = _turned_dims(header)
    facts = FACTS[config.model_type]
    if dims is None or facts.rotary is None:
        return
    rotary = getattr(frame.get_submodule(facts.base), facts.rotary)
    turned = {2 * table.numel() for name, table in rotary.named_buffers() if name.endswith("inv_freq")}
    if turned - {dims}:
        raise UnsupportedModel(
            f"{header.path.name} turns {dims} dimensions of each head, and transformers' {config.model_type} models "
            f"{min(turned - {dims})}. Use the model's safetensors version."
        )


def _window_of(header: GgufHeader, raw: dict[str, Any]) -> dict[str, Any]:
    window = header.metadata.get(f"{header.architecture}.attention.sliding_window")
    if not window or raw.get("sliding_window") is not None:
        return {}
    if FACTS[raw["model_type"]].window is same_window:
        return {"sliding_window": window}
    context = numbers_of(raw).get("max_position_embeddings", 0)
    if isinstance(window, int) and 0 < context <= window:
        return {}  # it hides nothing
    raise UnsupportedModel(
        f"{header.path.name} has a sliding window, which transformers' {raw['model_type']} models read from GGUF have "
        "not. Use the model's safetensors version."
    )


def _turning_of(header: GgufHeader, raw: dict[str, Any]) -> dict[str, Any]:
    numbers, dims = numbers_of(raw), _turned_dims(header)
    hidden, heads = numbers.get("hidden_size"), numbers.get("num_attention_heads")
    head_dim = numbers.get("head_dim") or header.metadata.get(f"{header.architecture}.attention.key_length")
    head_dim = head_dim or (hidden // heads if hidden and heads else None)
    if dims is None or not head_dim or ("head_dim" in numbers and head_dim == dims):
        return {}
    return {"partial_rotary_factor": dims / head_dim}


def _theta_of(header: GgufHeader, raw: dict[str, Any]) -> dict[str, Any]:
    """The base of the rotary angles: of some families transformers reads everything but this."""
    theta = header.metadata.get(f"{header.architecture}.rope.freq_base")
    return {} if theta is None or raw.get("rope_theta") is not None else {"rope_theta": theta}


def _turned_dims(header: GgufHeader) -> int | None:
    dims = header.metadata.get(f"{header.architecture}.rope.dimension_count")
    return dims if isinstance(dims, int) and dims > 0 else None
