"""The sizes of a model, unit by unit, from its configuration alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from shardnet.models.families import family_of
from shardnet.models.few_bits import held_bytes
from shardnet.models.heads import SCORE_BYTES, classifier_of
from shardnet.models.skeleton import Skeleton, build_skeleton
from shardnet.plan import DTYPE_BYTES, ModelProfile, UnitProfile
from shardnet.quantised.kv_names import head_bytes
from shardnet.quantised.schemes import AUTO

TOKEN_ID_BYTES = 8
DEFAULT_CONTEXT = 2048
"""Where a configuration names no limit (BLOOM): what such models were trained with."""


def profile_model(config: Any, dtype: str, name: str) -> ModelProfile:
    """Weights, cache and output of every unit, in the given dtype ("float32", "bfloat16", "float16").

    The head's weights are counted whole, also where they are tied to the embedding's: a device that holds both units
    holds them once. What leaves the head is a token id, as the sampler runs there, or a classifier's scores.

    Raises:
        UnsupportedModel: the family cannot be cut.
    """
    return profile_skeleton(build_skeleton(config, 0, config.num_hidden_layers + 1), dtype, name)


def profile_skeleton(
    skeleton: Skeleton, dtype: str, name: str, weights: str = AUTO, stored: Callable[[str], str] = lambda _: ""
) -> ModelProfile:
    """As `profile_model`, from the skeleton of a whole model.

    Args:
        weights: in how many bits they are held, one of `schemes.SCHEMES`.
        stored: in which format the checkpoint has a tensor.
    """
    item_bytes = getattr(torch, dtype).itemsize
    config = skeleton.config
    classifier = classifier_of(config)
    told_bytes = TOKEN_ID_BYTES if classifier is None else SCORE_BYTES * len(classifier.labels)
    last = skeleton.num_units_total - 1
    cached = {block.layer + 1: block.elements_per_token * item_bytes for block in skeleton.kv_layout}
    units = []
    for unit, modules in skeleton.units():
        num_parameters = sum(slot.shape.numel() for slot in skeleton.slots(modules))
        units.append(
            UnitProfile(
                name="embedding" if unit == 0 else "head" if unit == last else f"block {unit - 1}",
                weight_bytes=held_bytes(skeleton, modules, weights, stored, item_bytes),
                kv_bytes_per_token=cached.get(unit, 0),
                output_bytes=told_bytes if unit == last else config.hidden_size * item_bytes,
                num_parameters=num_parameters,
            )
        )
    return ModelProfile(
        name,
        config.model_type,
        dtype,
        tuple(units),
        context_of(config),
        config.vocab_size,
        classifier=classifier,
    )


def kept_as(profile: ModelProfile, config: Any, kv_dtype: str) -> ModelProfile:
    """A model, with what its blocks keep of a token where keys and values are kept as one of `kv_names.KV_DTYPES`."""
    heads, *dims = family_of(config.model_type).kv(config)
    kv_bytes = heads * sum(head_bytes(kv_dtype, dim, DTYPE_BYTES[profile.dtype]) for dim in dims)
    units = tuple(
        replace(unit, kv_bytes_per_token=kv_bytes) if unit.kv_bytes_per_token else unit for unit in profile.units
    )
    return replace(profile, units=units, kv_dtype=kv_dtype)


def context_of(config: Any) -> int:
    """Tokens that a session may hold.

    Rotary tables that change with the length of the text (dynamic NTK, LongRoPE) count as far as they stay constant:
    beyond that, keys cached earlier would have to be turned again, and sessions in one step would disturb each other.
    """
    longest = getattr(config, "max_position_embeddings", None) or getattr(config, "seq_length", None)
    limits = [longest or DEFAULT_CONTEXT]
    for rope in _ropes_of(config):
        if rope.get("rope_type") in ("dynamic", "longrope"):
            original = rope.get("original_max_position_embeddings")
            limits.append(original or getattr(config, "original_max_position_embeddings", None) or limits[0])
    return int(min(limits))


def _ropes_of(config: Any) -> Iterator[dict[str, Any]]:
    """What a configuration says of its rotary tables: of one for all blocks, or of one for each kind of them."""
    said = getattr(config, "rope_parameters", None) or {}
    yield said
    yield from (rope for rope in said.values() if isinstance(rope, dict))
