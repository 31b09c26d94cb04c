"""From a checkpoint's tensor names to the model's: prefixes, renamed tensors, experts that the model keeps fused.

The tables of names are those of transformers (`conversion_mapping`). What comes out says for every tensor of the model
which stored tensors go where in its memory, so that a worker reads each of them into its final place: a tensor stored
whole is listed under its own name, a part of one under `name@first_element`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from shardnet.errors import DamagedCheckpoint
from shardnet.foreign.quoting import quoted
from shardnet.loader.places import TensorPlace
from shardnet.loader.stored import require_readable
from shardnet.models import Skeleton

PART_MARK = "@"


def match_names(skeleton: Skeleton, stored: Mapping[str, TensorPlace]) -> dict[str, TensorPlace]:
    """For every tensor of the skeleton's units, the stored tensors that make it up.

    Raises:
        DamagedCheckpoint: a tensor is missing, there twice, or has another shape than the configuration says.
        UnsupportedModel: a tensor is quantised.
    """
    expected = {slot.name: tuple(slot.shape) for _, modules in skeleton.units() for slot in skeleton.slots(modules)}
    whole, parts = _rename(skeleton, stored, expected)
    index: dict[str, TensorPlace] = {}
    for name, shape in expected.items():
        if name in whole:
            tensor_name = whole[name]
            _check_shape(tensor_name, stored[tensor_name], shape)
            require_readable(tensor_name, stored[tensor_name].dtype)
            index[name] = stored[tensor_name]
        elif name in parts:
            index.update(_fuse(name, shape, parts[name], stored))
        else:
            raise DamagedCheckpoint(
                f"The checkpoint holds {len(stored)} tensors and {name} of shape {list(shape)} is not among them. "
                "Download it again, or check that config.json belongs to these weights."
            )
    return index


def _rename(
    skeleton: Skeleton, stored: Mapping[str, TensorPlace], expected: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, dict[str, list[str]]]]:
    """(model name -> stored name, model name -> {source pattern: stored names of its parts})."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(skeleton.frame)
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    whole: dict[str, str] = {}
    parts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for stored_name in stored:
        name, pattern = stored_name, None
        if name not in expected:
            name, pattern = rename_source_key(stored_name, renamings, converters)
        if name not in expected:
            name = f"{skeleton.frame.base_model_prefix}.{name}"
        if name not in expected:
            continue  # another unit's, or a buffer that old versions used to save
        if pattern is not None:
            parts[name][pattern].append(stored_name)
        elif stored_name == name or name not in stored:  # the one of the very name comes before those renamed to it
            _require_first(whole.get(name), stored_name, name)
            whole[name] = stored_name
    return whole, {name: _in_order(found, converters) for name, found in parts.items()}


def _require_first(before: str | None, stored_name: str, name: str) -> None:
    if before is not None:
        raise DamagedCheckpoint(
            f"The checkpoint holds {quoted(before)} and {quoted(stored_name)}, and both are {name} of the model. "
            "Keep the one that belongs there."
        )


def _in_order(by_pattern: Mapping[str, list[str]], converters: Sequence[Any]) -> dict[str, list[str]]:
    """The parts of a tensor as they lie in it."""
    order = {pattern: place for converter in converters for place, pattern in enumerate(converter.source_patterns)}
    return dict(sorted(by_pattern.items(), key=lambda item: order[item[0]]))


def _fuse(
    name: str, shape: Sequence[int], sources: Mapping[str, list[str]], stored: Mapping[str, TensorPlace]
) -> dict[str, TensorPlace]:
    """Experts [E, rows, columns] from E tensors of each source pattern, the patterns one below the other."""
    pieces: dict[str, TensorPlace] = {}
    first_row = 0
    rows, columns = shape[1], math.prod(shape[2:])
    for names in sources.values():
        if len(names) != shape[0]:
            raise DamagedCheckpoint(
                f"{name} is made of {shape[0]} experts and the checkpoint holds {len(names)}. Download it again."
            )
        num_rows = next(iter(stored[names[0]].shape), 0)
        for expert, part in enumerate(sorted(names, key=_natural)):
            _check_shape(part, stored[part], (num_rows, *shape[2:]))
            require_readable(part, stored[part].dtype)
            pieces[f"{name}{PART_MARK}{(expert * rows + first_row) * columns}"] = stored[part]
        first_row += num_rows
    if first_row != rows:
        raise DamagedCheckpoint(
            f"{name} should have {rows} rows for each expert and the checkpoint holds {first_row}. Download it again."
        )
    return pieces


def _natural(name: str) -> list[int | str]:
    """experts.10 comes after experts.9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _check_shape(name: str, tensor: TensorPlace, shape: Sequence[int]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise DamagedCheckpoint(
            f"The tensor {name} should have the shape {list(shape)} by config.json and has {list(tensor.shape)}. "
            "Check that config.json belongs to these weights."
        )
