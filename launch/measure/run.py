"""Finds the configuration that `shardnet profile` was asked about, and measures or estimates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from shardnet.described.model_sizes import ModelConfig, unit_works
from shardnet.errors import ModelNotFound
from shardnet.foreign.plain_files import is_folder, is_there, user_path
from shardnet.launch.files.config_files import known_names, load_model_config
from shardnet.launch.files.model_configs import hub_config_folder, is_hub_id
from shardnet.launch.measure.options import ProfileOptions
from shardnet.loader import open_model
from shardnet.loader.folder import read_config
from shardnet.models.plain_config import as_text, from_text
from shardnet.plan import DTYPES, DeviceProfile
from shardnet.process.cache_folder import cache_folder
from shardnet.profiling.reuse import Profiled, measure_or_reuse
from shardnet.profiling.store import ProfileStore
from shardnet.progress import Progress
from shardnet.quantised.schemes import bits_of, settled

REFERENCE = "reference-1b"
"""The model that is measured where the one that was asked for is known by its numbers alone."""


@dataclass(frozen=True)
class ProfileResult:
    """What was measured, and what it says of the model that was asked about."""

    model: str
    profiled: Profiled
    profile: DeviceProfile


def run_profile(options: ProfileOptions, progress: Progress) -> ProfileResult:
    """Measure this device with a model, use what was measured before, or estimate.

    Raises:
        ModelNotFound, UnsupportedModel, DamagedCheckpoint, BadConfiguration: the model.
        DoesNotFit: one unit does not fit in this device's memory.
        UsageError: measurements cannot be kept.
    """
    store = ProfileStore(cache_folder() / "profiles")
    numbers = _numbers_alone(options.model)
    dtype = options.weights if options.weights in DTYPES else options.dtype
    weights = settled(options.weights, dtype)
    if numbers is None:
        config, name, weights = find_config(options.model, dtype, weights, progress)
    else:
        config, name = reference_config(), REFERENCE
    profiled = measure_or_reuse(
        from_text(as_text(config)),  # as devices get it: they have blocks of their own for most families
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
    if numbers is None:
        return ProfileResult(name, profiled, profiled.measurement.to_profile())
    works = unit_works(numbers, dtype, bits_of(weights), kv_dtype=options.kv_dtype)
    return ProfileResult(numbers.name, profiled, profiled.measurement.estimate_profile(works))


def find_config(model: str, dtype: str, weights: str, progress: Progress) -> tuple[Any, str, str]:
    """The `transformers` configuration of a model, its name, and the scheme that its weights are like.

    Weights are wanted only of a .gguf file.
    """
    if not model:
        raise ModelNotFound("The model has an empty name. Give a folder, a .gguf file, a hub id, or a name.")
    path = user_path(model)
    if is_folder(path):
        return read_config(path), path.resolve().name, weights
    if is_hub_id(model):
        return read_config(hub_config_folder(model)), model, weights
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


def _numbers_alone(model: str) -> ModelConfig | None:
    """The numbers of a model in configs/models/ or of a configuration file; None for one that may be on disk."""
    path = user_path(model)
    is_file = is_there(path) and not is_folder(path) and path.suffix in (".json", ".yaml", ".yml")
    is_known = model.replace("-", "_") in (name.replace("-", "_") for name in known_names("models"))
    return load_model_config(model) if is_file or (is_known and not is_there(path)) else None
