"""What a glance at the model's files rules out, said before PyTorch is imported: within a second, not after three.

A tokenizer is read before anything else is imported that takes time.
"""

from __future__ import annotations

from typing import Any

from shardnet.cluster.placement import check_num_devices, check_split
from shardnet.foreign.plain_files import is_folder, user_path
from shardnet.launch.generate.options import GenerateOptions
from shardnet.launch.values import require_writer
from shardnet.loader import Glance, glance_at_once


def refuse_at_once(options: GenerateOptions, *, must_write: bool = True) -> None:
    """Look at a model that lies on this disk: a folder, or the header of a .gguf file.

    Args:
        must_write: text, or say how likely one is.

    Raises:
        BadRequest: more devices than units, a split of other units.
        ModelNotFound, UnsupportedModel, DamagedCheckpoint
    """
    seen = glance_at_once(options.model)
    if must_write:
        require_writer(seen)
    if seen is not None:
        check_number_of_units(options, seen)


def read_tokenizer_early(options: GenerateOptions) -> Any:
    """The tokenizer of a model that lies on this disk as a folder; None for others, whose folder is still to be found.

    None, too, where a cluster holds the model.

    Raises:
        ModelNotFound, DamagedCheckpoint: as `read_tokenizer`.
    """
    from shardnet.loader import read_tokenizer

    if options.running_in is not None:
        return None
    folder = user_path(options.model)
    return read_tokenizer(folder) if is_folder(folder) else None


def check_number_of_units(options: GenerateOptions, seen: Glance) -> None:
    """See that there are units enough for the devices.

    Raises:
        BadRequest: there are not.
    """
    if seen.num_units is None or options.uses_running_devices:
        return
    if options.load.split is not None:
        check_split(options.load.split, options.num_local_devices, seen.num_units, seen.name)
    check_num_devices(options.num_local_devices, seen.num_units, seen.name)
