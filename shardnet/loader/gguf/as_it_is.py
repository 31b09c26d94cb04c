"""Which GGUF files are read as they are, and where the model's tensors lie in them then. All others are converted.

A device can unpack the kinds of `stored.GGML_TYPES`, put rows in order and take one off. A file is read as it is where
the model wants no more than that: of its kinds, and of what transformers does to the values of its family.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from shardnet.loader.gguf.header import GgufHeader, GgufTensor
from shardnet.loader.gguf.naming import Naming, Shapes, require_all, require_shape
from shardnet.loader.places import TensorPlace
from shardnet.loader.stored import GGML_TYPES, Stored

KINDS = ("F32", "F16", "BF16", *GGML_TYPES)
EXPERTS = re.compile(r"blk\.\d+\.ffn_(?P<which>gate|up|down)_exps\.weight")


def kept_as_it_is(
    header: GgufHeader, naming: Naming, raw_config: Mapping[str, Any], shapes: Shapes
) -> dict[str, TensorPlace] | None:
    """Where the tensors of a model lie in its file, by their names in a checkpoint; None where it must be converted.

    Args:
        shapes: of all tensors that the model wants.

    Raises:
        DamagedCheckpoint: one is missing, or of another shape.
    """
    rule = RULES.get(type(naming.processor).__name__)
    if rule is None:
        return None
    places: dict[str, TensorPlace] = {}
    missing = dict.fromkeys(shapes)
    for tensor in header.tensors:
        is_experts = EXPERTS.fullmatch(tensor.name) is not None
        name = naming.names.get(tensor.name.removesuffix(".weight") if is_experts else tensor.name)
        if name is None or name not in shapes:
            continue
        place = _place(header, tensor, rule, raw_config)
        if place is None:
            return None
        places |= _split(header, tensor, place, name, shapes[name]) if is_experts else {name: place}
        if not is_experts:
            require_shape(header, tensor.name, place.shape, shapes[name])
        missing.pop(name, None)
    require_all(header, list(missing), shapes)
    return places


def _place(header: GgufHeader, tensor: GgufTensor, rule: Rule, raw_config: Mapping[str, Any]) -> TensorPlace | None:
    """None where it cannot be read as it is."""
    kind = tensor.kind_name
    if kind not in KINDS:
        return None
    stored = rule(kind, tensor.name, raw_config)
    if stored is None or stored.num_bytes(tensor.shape) != tensor.num_bytes:
        return None
    shape = (1, *tensor.shape) if "ffn_gate_inp_shexp" in tensor.name else tensor.shape  # transformers adds it, too
    return TensorPlace(str(header.path), tensor.offset, tensor.num_bytes, stored.dtype, shape)


def _split(
    header: GgufHeader, tensor: GgufTensor, place: TensorPlace, name: str, fused: tuple[int, ...]
) -> dict[str, TensorPlace]:
    """Experts one by one, as checkpoints have them. Args: `name` and `fused` of all in the model, with gate and up."""
    found = EXPERTS.fullmatch(tensor.name)
    assert found is not None
    num_experts, rows, *columns = fused
    wanted = (num_experts, rows if found["which"] == "down" else rows // 2, *columns)
    require_shape(header, tensor.name, place.shape, wanted)
    num_bytes = place.num_bytes // num_experts
    prefix = name.rpartition(".")[0]
    return {
        f"{prefix}.{expert}.{found['which']}_proj.weight": place._replace(
            offset=place.offset + expert * num_bytes, num_bytes=num_bytes, shape=wanted[1:]
        )
        for expert in range(num_experts)
    }


Rule = Callable[[str, str, Mapping[str, Any]], "Stored | None"]
"""(kind, name of a tensor in the file, raw configuration) -> how it is stored; None where that cannot be said."""


def _plain(kind: str, name: str, raw_config: Mapping[str, Any]) -> Stored:
    return Stored(kind)


def _llama(kind: str, name: str, raw_config: Mapping[str, Any]) -> Stored | None:
    """Its rotation turns pairs of rows that are next to each other, and transformers' the two halves of a head."""
    heads, kv_heads = raw_config.get("num_attention_heads"), raw_config.get("num_key_value_heads")
    if not any(part in name for part in (".attn_q.", ".attn_k.")) or None in (heads, kv_heads):
        return Stored(kind)
    turned = heads if ".attn_q." in name else kv_heads
    return Stored(kind, heads=turned) if isinstance(turned, int) else None


def _norms_less_one(kind: str, name: str, raw_config: Mapping[str, Any]) -> Stored:
    """Its norms multiply by their weights, and transformers' by one more."""
    return Stored(kind, minus_one="norm.weight" in name)


RULES: dict[str, Rule] = {
    "TensorProcessor": _plain,
    "LlamaTensorProcessor": _llama,
    "Gemma2TensorProcessor": _norms_less_one,
    "NemotronTensorProcessor": _norms_less_one,
    "Qwen2MoeTensorProcessor": _plain,
}
"""By the class of transformers that does the same to values."""
