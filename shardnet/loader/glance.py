"""What a model's files say at a glance: enough to refuse much before any device is started.

Imports neither torch nor model code, and so takes milliseconds; but `glance_at` prepares a GGUF file that was never
opened before, by those who do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shardnet.foreign.config_bounds import numbers_of
from shardnet.foreign.plain_files import is_folder
from shardnet.loader.checkpoint import index_folder
from shardnet.loader.claims import check_folder
from shardnet.loader.folder import check_text_files, read_eos_ids, read_raw_config
from shardnet.loader.sources import find_folder, find_on_disk, name_of
from shardnet.models.heads import num_labels_of
from shardnet.process.cache_folder import cache_folder
from shardnet.progress import Progress


@dataclass(frozen=True)
class Glance:
    """A model on this machine's disk, at a glance."""

    name: str
    """As it was asked for, without the folders above it."""
    num_units: int | None
    """Embedding, blocks and head; None where the configuration leaves the number of blocks to its family."""
    num_labels: int
    """That a classifier tells apart; 0 of a model that writes text."""


def glance_at(
    model: str,
    dtype: str,
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Glance:
    """Find a model, and look whether it is of a supported family, and its files are whole and say nothing impossible.

    Args: as `open_model`, which finds more mistakes: tensors that are missing or of the wrong shape.

    Raises:
        ModelNotFound, UnsupportedModel, DamagedCheckpoint
    """
    folder = find_folder(model, dtype, cache_folder(cache_dir), progress)
    return _glance(folder, model)


def glance_at_once(model: str) -> Glance | None:
    """The same before torch is imported, so that what is refused is refused at once: of a .gguf file its header alone.

    Returns:
        None for what is not on this disk, or not as a folder.

    Raises:
        ModelNotFound, UnsupportedModel, DamagedCheckpoint
    """
    path = find_on_disk(model)
    if path is None:
        return None
    if is_folder(path):
        return _glance(path, model)
    from shardnet.loader.gguf.config import open_header

    open_header(path)
    return None


def _glance(folder: Path, model: str) -> Glance:
    raw = read_raw_config(folder)
    check_text_files(folder)
    read_eos_ids(folder, None)
    check_folder(folder, raw, index_folder(folder))
    blocks = numbers_of(raw).get("num_hidden_layers")
    num_units = None if blocks is None else blocks + 2
    return Glance(name_of(model), num_units, num_labels_of(raw))
