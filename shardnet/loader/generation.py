"""How a model's authors propose that tokens are chosen: `generation_config.json` of its folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from shardnet.loader.folder import read_object

BOUNDS: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "top_k": (0, 2**31),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-3, 100.0),
}
"""What a value may be. `transformers` has the same names."""


def read_proposed_sampling(folder: Path) -> dict[str, Any]:
    """Those of the options in `BOUNDS` that the folder has, as numbers that can be meant; others are passed over.

    Raises:
        DamagedCheckpoint: the file cannot be read.
    """
    told = read_object(folder / "generation_config.json") or {}
    return {name: told[name] for name in BOUNDS if _is_meant(told.get(name), *BOUNDS[name])}


def _is_meant(value: Any, least: float, most: float) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and least <= value <= most
