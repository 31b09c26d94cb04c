"""A model folder in Hugging Face layout: its configuration, the ids that end an answer. Believes nothing in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from shardnet.errors import DamagedCheckpoint, ModelNotFound, UnsupportedModel
from shardnet.foreign.bounds import extent_of
from shardnet.foreign.config_bounds import check_config, fault_of
from shardnet.foreign.libraries import read_by_others
from shardnet.foreign.plain_files import open_plain, read_json
from shardnet.foreign.quoting import quoted, shortened
from shardnet.quantised.schemes import FOUR_BITS

QUANTISED, OWN_METHOD = "quantization_config", "shardnet"
"""What transformers calls the entry of a configuration that says how weights were quantised, and our name in it."""
MOST_CONFIG_BYTES = 1 << 20
MOST_OBJECT_BYTES = 16 << 20
MOST_TOKENIZER_BYTES = 128 << 20
"""The largest tokenizers in use have 35 MB."""
MOST_OBJECT_VALUES = 500_000
"""In what is small beside the weights: the 28,672 added tokens of a model that speaks are 200,000 values."""
MOST_LISTED = 10_000
"""In one list there: transformers compares each special token with all others."""
TEXT_ENDINGS = (".json", ".jinja", ".model", ".txt")
"""What is read, or may be read by transformers, beside the weights."""
SMALL_OBJECTS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def read_config(folder: Path) -> Any:
    """The transformers configuration of the model in `folder`.

    Raises:
        ModelNotFound: there is no `config.json`.
        DamagedCheckpoint: it is not readable, or says something impossible.
        UnsupportedModel: the family is unknown, or the weights are quantised.
    """
    return make_config(folder, read_raw_config(folder))


def make_config(folder: Path, raw: dict[str, Any]) -> Any:
    """The transformers configuration that the checked `config.json` of `folder` describes.

    Raises:
        DamagedCheckpoint: transformers finds something wrong in it, or adds something impossible to it.
    """
    from transformers import CONFIG_MAPPING

    model_type, shown = raw["model_type"], f"{shortened(str(folder))}/config.json"
    values = {name: value for name, value in raw.items() if name != QUANTISED}
    with read_by_others(lambda reason: DamagedCheckpoint(f"{shown} is not a {model_type} configuration: {reason}.")):
        config = CONFIG_MAPPING[model_type].from_dict(values)
        filled_in = config.to_dict()
    check_config(filled_in, shown)
    return config


def read_raw_config(folder: Path) -> dict[str, Any]:
    """What `config.json` says, of a family that can be cut and weights that can be read.

    Raises:
        ModelNotFound, DamagedCheckpoint, UnsupportedModel: as `read_config`.
    """
    from shardnet.models import family_of
    from shardnet.models.heads import check_head

    raw = read_object(folder / "config.json", MOST_CONFIG_BYTES)
    shown = shortened(str(folder))
    if raw is None:
        raise ModelNotFound(
            f"There is no config.json in {shown}. Give a folder in Hugging Face layout, a .gguf file, or a hub id."
        )
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise UnsupportedModel(f"{shown}/config.json names no model_type. Only transformers models can be cut.")
    family_of(model_type)
    check_config(raw, f"{shown}/config.json")
    check_head(raw, f"{shown}/config.json")
    quantised = raw.get(QUANTISED)
    if quantised and not _is_own(quantised):
        method = quoted(quantised.get("quant_method", "an unknown method")).strip("'")
        raise UnsupportedModel(
            f"The weights in {shown} are quantised with {method}, which cannot be read. "
            "Use the version of the model that is not quantised, or a .gguf file."
        )
    return raw


def made_as(raw: dict[str, Any]) -> str:
    """The scheme that `shardnet quantise` made a checkpoint in, by its configuration; empty where it did not."""
    quantised = raw.get(QUANTISED)
    return str(quantised["weights"]) if quantised and _is_own(quantised) else ""


def _is_own(quantised: Any) -> bool:
    is_ours = isinstance(quantised, dict) and quantised.get("quant_method") == OWN_METHOD
    return is_ours and quantised.get("weights") in FOUR_BITS


def read_object(path: Path, most_bytes: int = MOST_OBJECT_BYTES) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file.

    Raises:
        DamagedCheckpoint: the file holds something else, is no file, or is too large.
    """
    if not os.path.exists(path):
        return None
    content = read_json(path, most_bytes, "the file", DamagedCheckpoint)
    if not isinstance(content, dict):
        raise DamagedCheckpoint(
            f"{shortened(str(path))} should hold a JSON object and holds a {type(content).__name__}. Download it again."
        )
    return content


def check_text_files(folder: Path) -> None:
    """See that what transformers may read beside the weights are files, of a size that such files have.

    Raises:
        DamagedCheckpoint: one is a pipe or a device, or too large, or holds no object where there must be one.
    """
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if path.suffix in TEXT_ENDINGS and os.path.exists(path) and not os.path.isdir(path):
            with open_plain(path, "the file", DamagedCheckpoint) as file:
                size = file.seek(0, 2)
            if size > MOST_TOKENIZER_BYTES:
                raise DamagedCheckpoint(
                    f"{shortened(str(path))} has {size} bytes, and no such file needs more than "
                    f"{MOST_TOKENIZER_BYTES}. Download it again."
                )
    for name in SMALL_OBJECTS:
        count, longest = extent_of(read_object(folder / name))
        if count > MOST_OBJECT_VALUES or longest > MOST_LISTED:
            raise DamagedCheckpoint(
                f"{shortened(str(folder / name))} holds {count} values, and up to {longest} in one list; no such file "
                f"needs more than {MOST_OBJECT_VALUES} and {MOST_LISTED}. Download it again."
            )


def read_eos_ids(folder: Path, config: Any) -> tuple[int, ...]:
    """The token ids that end an answer: the generation configuration's, or else those of `config` if there is one.

    Raises:
        DamagedCheckpoint: they are no token ids.
    """
    generation = read_object(folder / "generation_config.json") or {}
    ids = generation.get("eos_token_id", getattr(config, "eos_token_id", None))
    if ids is None:
        return ()
    listed = ids if isinstance(ids, list) else [ids]
    if fault_of("eos_token_id", listed) is not None:
        raise DamagedCheckpoint(
            f"The eos_token_id of {shortened(str(folder))} should be a token id or a list of them, but is "
            f"{quoted(ids)}. Correct generation_config.json, or download it again."
        )
    return tuple(listed)
