"""A model's configuration as plain values: what travels to devices, which need no `transformers` to read it.

The source fills in what its family says beside `config.json`, so that a device knows no defaults.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from shardnet.errors import DamagedCheckpoint, UnsupportedModel
from shardnet.foreign.config_bounds import check_config
from shardnet.foreign.libraries import read_by_others
from shardnet.foreign.plain_files import parse_json


class PlainConfig:
    """Attributes and `to_dict` of a `transformers` configuration. What it holds is its own, and may be changed."""

    model_type: str

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(copy.deepcopy(dict(values)))

    def to_dict(self) -> dict[str, Any]:
        """Its values; a copy."""
        return copy.deepcopy(self.__dict__)


def values_of(config: Any) -> dict[str, Any]:
    """What a configuration says, a `transformers` one or a plain one, but for where it lies: paths never travel."""
    values: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=str))
    values.pop("_name_or_path", None)
    return values


def as_text(config: Any) -> str:
    """A configuration as it travels."""
    return json.dumps(values_of(config))


def from_text(text: str) -> PlainConfig:
    """The configuration that came.

    Raises:
        DamagedCheckpoint: it is none, or says something impossible.
    """
    what = "The configuration that came"
    values = parse_json(text, what, DamagedCheckpoint)
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str) or "to_dict" in values:
        raise DamagedCheckpoint(f"{what} is none. Install the same versions of shardnet on all devices.")
    check_config(values, what)
    return PlainConfig(values)


def full_config(config: PlainConfig) -> Any:
    """The `transformers` configuration of these values.

    Raises:
        UnsupportedModel: `transformers` is not installed, or finds something wrong in them.
    """
    try:
        from transformers import CONFIG_MAPPING
    except ModuleNotFoundError as cause:
        raise UnsupportedModel(
            f"This {config.model_type} model needs transformers on every device, and it is not installed on this one. "
            "Run: pip install transformers accelerate"
        ) from cause
    values = config.to_dict()
    with read_by_others(lambda reason: UnsupportedModel(f"transformers cannot read this configuration: {reason}.")):
        return CONFIG_MAPPING[config.model_type].from_dict(values)
