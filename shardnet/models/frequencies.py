"""By how much each pair of a head's numbers turns with each position: the kinds of rotary tables that are known here.

The arithmetic is that of `transformers` (`modeling_rope_utils`), bit for bit, for texts within what a session may hold
(`sizes.context_of`): there, tables that change with the length of the text do not.

Shapes: d head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Frequencies(NamedTuple):
    """What makes a rotary table."""

    per_position: Tensor
    """[d / 2] radians."""
    scale: float
    """Of cosine and sine."""


def frequencies(config: Any, kind: str | None) -> Frequencies:
    """Those of all blocks, or of the blocks of a kind (`config.layer_types`)."""
    said = said_of(config, kind)
    return KINDS[said["rope_type"]](config, said)


def said_of(config: Any, kind: str | None) -> Any:
    """What the configuration says of the rotary table of all blocks, or of a kind of them; None for nothing."""
    said = getattr(config, "rope_parameters", None)
    return said if kind is None or said is None else said.get(kind)


def head_size(config: Any) -> int:
    """Of queries and keys."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _inverse(base: float, size: int) -> Tensor:
    return 1.0 / (base ** (torch.arange(0, size, 2, dtype=torch.float) / size))


def _plain(config: Any, said: Mapping[str, Any]) -> Frequencies:
    return Frequencies(_inverse(said["rope_theta"], head_size(config)), 1.0)


def _linear(config: Any, said: Mapping[str, Any]) -> Frequencies:
    return Frequencies(_inverse(said["rope_theta"], head_size(config)) / said["factor"], 1.0)


def _dynamic(config: Any, said: Mapping[str, Any]) -> Frequencies:
    """As long as no text is longer than the model's context."""
    size, factor, longest = head_size(config), said["factor"], config.max_position_embeddings
    stretched = ((factor * longest / longest) - (factor - 1)) ** (size / (size - 2))
    return Frequencies(_inverse(said["rope_theta"] * stretched, size), 1.0)


def _llama3(config: Any, said: Mapping[str, Any]) -> Frequencies:
    """Long waves are stretched, short ones are not, and between them it goes smoothly from one to the other."""
    turning = _inverse(said["rope_theta"], head_size(config))
    factor, low, high = said["factor"], said["low_freq_factor"], said["high_freq_factor"]
    context = said["original_max_position_embeddings"]
    wavelength = 2 * math.pi / turning
    stretched = torch.where(wavelength > context / low, turning / factor, turning)
    smooth = (context / wavelength - low) / (high - low)
    smoothed = (1 - smooth) * stretched / factor + smooth * stretched
    is_between = ~(wavelength < context / high) * ~(wavelength > context / low)
    return Frequencies(torch.where(is_between, smoothed, stretched), 1.0)


def _yarn(config: Any, said: Mapping[str, Any]) -> Frequencies:
    """YaRN (Peng et al., 2023, arXiv:2309.00071)."""
    base, size = said["rope_theta"], head_size(config)
    context, factor = said["original_max_position_embeddings"], said["factor"]
    if factor is None:
        factor = config.max_position_embeddings / context

    def place(num_rotations: float) -> float:
        return (size * math.log(context / (num_rotations * 2 * math.pi))) / (2 * math.log(base))

    low, high = place(said.get("beta_fast") or 32), place(said.get("beta_slow") or 1)
    if config.rope_parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    if low == high:
        high += 0.001
    positions = base ** (torch.arange(0, size, 2).to(torch.float) / size)
    ramp = torch.clamp((torch.arange(size // 2, dtype=torch.float32) - low) / (high - low), 0, 1)
    is_kept = 1 - ramp
    turning = 1.0 / (factor * positions) * (1 - is_kept) + 1.0 / positions * is_kept
    return Frequencies(turning, _yarn_scale(said, factor))


def _yarn_scale(said: Mapping[str, Any], factor: float) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    given, weight, weight_of_all = said.get("attention_factor"), said.get("mscale"), said.get("mscale_all_dim")
    if given is not None:
        return float(given)
    if weight and weight_of_all:
        return float(scale(weight) / scale(weight_of_all))
    return scale(1)


KINDS: dict[str, Callable[[Any, Mapping[str, Any]], Frequencies]] = {
    "default": _plain,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
}
"""By `rope_type`."""
