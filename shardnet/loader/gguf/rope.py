"""How a GGUF file scales rotary positions, which transformers passes over.

llama.cpp writes the scaling of Llama 3.1 as a tensor of factors, and the others as metadata. What can be said in a
configuration is said there; what cannot is refused, since a model with other positions answers wrongly in silence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from shardnet.errors import UnsupportedModel
from shardnet.loader.gguf.header import GgufHeader, GgufTensor

FACTORS = "rope_freqs.weight"
UNREADABLE = ("rope_factors_long.weight", "rope_factors_short.weight")
"""LongRoPE."""
BY_BLOCK = "gemma3_text"
"""Scales the positions of some of its blocks only."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of every Llama that scales so; its files tell the factors alone."""
TOLERANCE = 1e-3
MOST_FREQUENCIES = 1 << 12
"""Half as many as a head has dimensions."""
_F32 = 0


def scaling_of(header: GgufHeader, raw: dict[str, Any]) -> dict[str, Any] | None:
    """The `rope_scaling` of a configuration that the file asks for; None where it asks for none.

    Args:
        raw: the configuration that transformers reads from the file.

    Raises:
        UnsupportedModel: no configuration says what it asks for.
    """
    tensors = {tensor.name: tensor for tensor in header.tensors}
    for name in UNREADABLE:
        if name in tensors:
            raise _refused(header, f"by the factors of {name}")
    kind, factor = _rule_of(header)
    if kind == "linear" and raw["model_type"] != BY_BLOCK and FACTORS not in tensors:
        return {"rope_type": "linear", "factor": factor}
    if kind != "none":
        raise _refused(header, f"by the rule {kind!r}")
    return _scaling_by_factors(header, tensors[FACTORS], raw) if FACTORS in tensors else None


def _rule_of(header: GgufHeader) -> tuple[Any, Any]:
    """The rule and its factor, as llama.cpp reads them: a factor alone is linear, and older files call it otherwise."""
    metadata, about = header.metadata, f"{header.architecture}.rope."
    factor = metadata.get(f"{about}scaling.factor", metadata.get(f"{about}scale_linear", 1.0))
    kind = metadata.get(f"{about}scaling.type", "linear")
    return ("none", 1.0) if kind == "linear" and factor in (0, 1) else (kind, factor)


def _scaling_by_factors(header: GgufHeader, tensor: GgufTensor, raw: dict[str, Any]) -> dict[str, Any] | None:
    factors = _values(header, tensor)
    if all(each == 1 for each in factors):
        return None
    are_factors = all(0 < each < math.inf for each in factors)
    if not are_factors or not _are_llama3(factors, float(raw.get("rope_theta", 1e4))):
        raise _refused(header, f"by factors in {FACTORS} that are not those of Llama 3")
    return {"rope_type": "llama3", "factor": max(factors), **LLAMA3}


def _are_llama3(factors: Sequence[float], theta: float) -> bool:
    expected = _llama3_factors(len(factors), theta, max(factors))
    return all(abs(one - other) <= TOLERANCE * other for one, other in zip(factors, expected, strict=True))


def _values(header: GgufHeader, tensor: GgufTensor) -> list[float]:
    import numpy as np

    if tensor.kind != _F32 or len(tensor.shape) != 1 or tensor.shape[0] > MOST_FREQUENCIES:
        raise _refused(header, f"by a tensor {FACTORS} that is no list of float32")
    values: list[float] = np.fromfile(header.path, "<f4", tensor.shape[0], offset=tensor.offset).tolist()
    return values


def _llama3_factors(num: int, theta: float, factor: float) -> Sequence[float]:
    """What each frequency is divided by, as `transformers` and llama.cpp compute it for Llama 3."""
    low, high, original = LLAMA3.values()
    factors = []
    for i in range(num):
        turns = original / (2 * math.pi * theta ** (i / num))  # of this frequency in a text of the original length
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def _refused(header: GgufHeader, how: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{header.path.name} scales the positions of a text {how}, which cannot be read from GGUF. "
        "Use the model's safetensors version."
    )
