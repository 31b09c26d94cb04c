"""Finds the configuration that `shardnet profile` was asked about, and measures or estimates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from shardnet.described.model_sizes import unit_works
from shardnet.errors import ModelNotFound
from shardnet.foreign.plain_files import is_folder, user_path
from shardnet.launch.files.config_files import numbers_alone
from shardnet.launch.files.model_configs import is_hub_id, on_hub
from shardnet.launch.files.stored_bits import stored_scheme
from shardnet.launch.measure.options import ProfileOptions
from shardnet.loader import open_model
from shardnet.loader.folder import made_as, make_config, read_raw_config
from shardnet.loader.gguf.config import read_config
from shardnet.loader.sources import name_of
from shardnet.models.plain_config import as_text, from_text
from shardnet.plan import DTYPES, DeviceProfile
from shardnet.process.cache_folder import cache_folder
from shardnet.process.compute import CPU
from shardnet.profiling.kernel_timing import orders_of
from shardnet.profiling.kernel_trials import left_to_torch
from shardnet.profiling.reuse import Profiled, measure_or_reuse
from shardnet.profiling.store import ProfileStore
from shardnet.progress import Progress
from shardnet.quantised.schemes import AUTO, bits_of, settled

REFERENCE = "reference-1b"
"""The model that is measured where the one that was asked for is known by its numbers alone."""


@dataclass(frozen=True)
class ProfileResult:
    """What was measured, and what it says of the model that was asked about."""

    model: str
    profiled: Profiled
    profile: DeviceProfile
    left_to_torch: dict[str, int] | None
    """How many blocks are not run in C as a whole, by why not; None where weights are not in few bits, or are not
    multiplied by the processor."""


def run_profile(options: ProfileOptions, progress: Progress) -> ProfileResult:
    """Measure this device with a model, use what was measured before, or estimate.

    Raises:
        ModelNotFound, UnsupportedModel, DamagedCheckpoint, BadConfiguration: the model.
        DoesNotFit: one unit does not fit in this device's memory.
        UsageError: measurements cannot be kept.
    """
    store = ProfileStore(cache_folder() / "profiles")
    numbers = numbers_alone(options.model)
    dtype = options.weights if options.weights in DTYPES else options.dtype
    weights = settled(options.weights, dtype)
    if numbers is None:
        config, name, weights = find_config(options.model, dtype, weights, progress)
    else:
        config, name = reference_config(), REFERENCE
    config = from_text(as_text(config))  # as devices get it: they have blocks of their own for most families
    profiled = measure_or_reuse(
        config,
        dtype,
        store,
        weights=weights,
        kv_dtype=options.kv_dtype,
        refresh=options.refresh,
        max_seconds=options.max_seconds,
        num_threads=options.threads,
        compute=options.compute,
        progress=progress,
    )
    profiled = replace(profiled, measurement=replace(profiled.measurement, model=name))
    left = None
    if options.compute == CPU and bits_of(weights) is not None:
        left = left_to_torch(config, dtype, weights, orders_of(profiled.measurement.kernels))
    if numbers is None:
        return ProfileResult(name, profiled, profiled.measurement.to_profile(), left)
    works = unit_works(numbers, dtype, kv_dtype=options.kv_dtype, weights=weights)
    return ProfileResult(numbers.name, profiled, profiled.measurement.estimate_profile(works), left)


def find_config(model: str, dtype: str, weights: str, progress: Progress) -> tuple[Any, str, str]:
    """The `transformers` configuration of a model, its name, and the scheme that its weights are like.

    Weights are wanted only of a .gguf file on this machine.
    """
    if not model:
        raise ModelNotFound("The model has an empty name. Give a folder, a .gguf file, a hub id, or a name.")
    path = user_path(model)
    found = on_hub(model) if is_hub_id(model) else path
    if found.suffix == ".gguf" and found != path:
        like = stored_scheme(model) if weights == AUTO else weights
        return read_config(found), name_of(model), settled(like, dtype)
    if is_folder(found):
        raw = read_raw_config(found)
        name = path.resolve().name if found == path else model
        return make_config(found, raw), name, settled(weights, dtype, made_as(raw))
    files = open_model(model, dtype, weights=weights, progress=progress)
    return files.config, files.name, files.like_weights


def reference_config() -> Any:
    """TinyLlama's shape with few blocks: large enough to be bound by memory, small enough for any device."""
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=4,
        num_attention_heads=32,
        num_key_value_heads=4,
        vocab_size=32000,
        max_position_embeddings=4096,
    )
