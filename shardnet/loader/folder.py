"""A model folder in Hugging Face layout: its configuration, its tokenizer, the ids that end an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shardnet.errors import DamagedCheckpoint, ModelNotFound, UnsupportedModel


def read_config(folder: Path) -> Any:
    """The transformers configuration of the model in `folder`.

    Raises:
        ModelNotFound: there is no `config.json`.
        DamagedCheckpoint: it is not readable.
        UnsupportedModel: the family is unknown, or the weights are quantised.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    raw = read_raw_config(folder)
    model_type = raw["model_type"]
    try:
        return CONFIG_MAPPING[model_type].from_dict(raw)
    except (KeyError, TypeError, ValueError, StrictDataclassError) as cause:
        reason = str(cause).strip().splitlines()[-1].strip()
        raise DamagedCheckpoint(f"{folder}/config.json is not a {model_type} configuration: {reason}") from cause


def read_raw_config(folder: Path) -> dict[str, Any]:
    """What `config.json` says, of a family that can be cut and weights that can be read.

    Raises:
        ModelNotFound, DamagedCheckpoint, UnsupportedModel: as `read_config`.
    """
    from shardnet.models import family_of

    raw = read_json(folder / "config.json")
    if raw is None:
        raise ModelNotFound(
            f"There is no config.json in {folder}. Give a folder in Hugging Face layout, a .gguf file, or a hub id."
        )
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise UnsupportedModel(f"{folder}/config.json names no model_type. Only transformers models can be cut.")
    family_of(model_type)
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method", "an unknown method")
        raise UnsupportedModel(
            f"The weights in {folder} are quantised with {method}, which cannot be read. "
            "Use the version of the model that is not quantised, or a .gguf file."
        )
    return raw


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file.

    Raises:
        DamagedCheckpoint: the file holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as cause:
        raise DamagedCheckpoint(f"{path} cannot be read ({cause}). Download it again.") from cause
    if not isinstance(content, dict):
        raise DamagedCheckpoint(f"{path} should hold a JSON object and holds a {type(content).__name__}.")
    return content


def read_eos_ids(folder: Path, config: Any) -> tuple[int, ...]:
    """The token ids that end an answer: the generation configuration's, or else the model configuration's.

    Raises:
        DamagedCheckpoint: they are no token ids.
    """
    generation = read_json(folder / "generation_config.json") or {}
    ids = generation.get("eos_token_id", getattr(config, "eos_token_id", None))
    if ids is None:
        return ()
    listed = ids if isinstance(ids, list) else [ids]
    if not all(type(token) is int for token in listed):
        raise DamagedCheckpoint(f"The eos_token_id of {folder} should be a token id or a list of them, but is {ids!r}.")
    return tuple(listed)
