"""What a glance at the model's files rules out, said before PyTorch is imported: within a second, not after three."""

from __future__ import annotations

from shardnet.cluster.placement import check_num_devices, check_split
from shardnet.loader import Glance, glance_at_once

from .generate_options import GenerateOptions


def refuse_at_once(options: GenerateOptions) -> None:
    """Look at a model that lies on this disk: a folder, or the header of a .gguf file.

    Raises:
        BadRequest: more devices than units, a split of other units.
        ModelNotFound, UnsupportedModel, DamagedCheckpoint
    """
    seen = glance_at_once(options.model)
    if seen is not None:
        check_number_of_units(options, seen)


def check_number_of_units(options: GenerateOptions, seen: Glance) -> None:
    """See that there are units enough for the devices.

    Raises:
        BadRequest: there are not.
    """
    if seen.num_units is None or options.uses_running_devices:
        return
    if options.split is not None:
        check_split(options.split, options.num_local_devices, seen.num_units, seen.name)
    check_num_devices(options.num_local_devices, seen.num_units, seen.name)
