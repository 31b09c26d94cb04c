"""What a model's authors say of it, and how they propose that tokens are chosen: two files of its folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from shardnet.loader.folder import MOST_CONFIG_BYTES, read_object

BOUNDS: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "top_k": (0, 2**31),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-3, 100.0),
}
"""What a value may be. `transformers` has the same names."""
SAMPLED = {"temperature": 1.0, "top_k": 50}
"""What transformers takes where a file says that tokens are sampled, and no more."""
TOP_ONE = 1e-9
"""In place of a `top_p` of 0: the likeliest token alone."""


class Authored(NamedTuple):
    """What a model's authors have written beside its weights and its tokenizer."""

    config: dict[str, Any]
    """`config.json`."""
    generation: dict[str, Any]
    """`generation_config.json`; empty where there is none."""

    @property
    def sampling(self) -> dict[str, Any]:
        """How transformers' `generate` would choose tokens where nobody says otherwise, by names of `BOUNDS`.

        Greedily, unless the file says `do_sample: true`: its other values then hold where a temperature is asked for.
        Values that cannot be meant are passed over.
        """
        told = self.generation
        meant = {name: told[name] for name in BOUNDS if _is_meant(name, told.get(name))}
        if "top_p" in meant:
            meant["top_p"] = max(meant["top_p"], TOP_ONE)
        return {**SAMPLED, **meant} if told.get("do_sample") is True else {**meant, "temperature": 0.0}


def read_authored(folder: Path) -> Authored:
    """
    Raises:
        DamagedCheckpoint: a file cannot be read.
    """
    return Authored(
        read_object(folder / "config.json", MOST_CONFIG_BYTES) or {},
        read_object(folder / "generation_config.json") or {},
    )


def _is_meant(name: str, value: Any) -> bool:
    kinds = (int,) if name == "top_k" else (int, float)
    least, most = BOUNDS[name]
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and least <= value <= most
