"""What a model's files say at a glance: enough to refuse much before any device is started.

Imports no model code and so takes milliseconds, but for a GGUF file that was never opened before: it is converted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shardnet.config_bounds import numbers_of

from .checkpoint import index_folder
from .claims import check_folder
from .files import DEFAULT_CACHE
from .folder import check_text_files, read_eos_ids, read_raw_config
from .sources import find_folder


@dataclass(frozen=True)
class Glance:
    """A model on this machine's disk, at a glance."""

    name: str
    """As it was asked for, without the folders above it."""
    num_units: int | None
    """Embedding, blocks and head; None where the configuration leaves the number of blocks to its family."""


def glance_at(
    model: str,
    dtype: str,
    *,
    cache_dir: Path | None = None,
    progress: Callable[[str, float, float], None] | None = None,
) -> Glance:
    """Find a model, and look whether it is of a supported family, and its files are whole and say nothing impossible.

    Args: as `open_model`, which finds more mistakes: tensors that are missing or of the wrong shape.

    Raises:
        ModelNotFound, UnsupportedModel, DamagedCheckpoint
    """
    folder = find_folder(model, dtype, (cache_dir or DEFAULT_CACHE).expanduser(), progress)
    raw = read_raw_config(folder)
    check_text_files(folder)
    read_eos_ids(folder, None)
    check_folder(folder, raw, index_folder(folder))
    blocks = numbers_of(raw).get("num_hidden_layers")
    return Glance(Path(model).name.removesuffix(".gguf"), None if blocks is None else blocks + 2)
