"""The list in a prepared folder that says where a model's tensors lie in its GGUF file, in place of weights.

It holds for the very file that was looked at, by its stamp: whoever else writes such a list into a folder cannot have
any other file taken for weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardnet.errors import DamagedCheckpoint
from shardnet.foreign.plain_files import read_json
from shardnet.foreign.quoting import shortened
from shardnet.loader.copies import FileStamp, stamp_of
from shardnet.loader.places import TensorPlace
from shardnet.loader.stored import bytes_of
from shardnet.loader.whole_files import write_json

KEPT = "gguf.json"
MOST_BYTES = 6 << 20


def write_kept(folder: Path, file: Path, stamp: FileStamp, places: Mapping[str, TensorPlace]) -> None:
    """Say where tensors lie. Args: `file` that has them all, absolute; `stamp` from before it was read.

    Raises:
        OSError: it cannot be written.
    """
    tensors = {name: [place.offset, place.dtype, place.shape] for name, place in places.items()}
    write_json(folder / KEPT, {"file": str(file), "stamp": stamp, "tensors": tensors})


def read_kept(folder: Path) -> dict[str, TensorPlace]:
    """All tensors of a prepared folder.

    Raises:
        DamagedCheckpoint: the GGUF file is gone or another one, or the list is damaged.
    """
    listed = folder / KEPT
    content = read_json(listed, MOST_BYTES, "the list of tensors", DamagedCheckpoint)
    try:
        file, stamp = str(content["file"]), FileStamp(*content["stamp"])
        if not os.path.isfile(file) or stamp_of(file) != stamp:
            raise DamagedCheckpoint(
                f"{shortened(file)} is gone, or another file than the one that {shortened(str(folder))} was made for. "
                "Give the .gguf file itself as the model."
            )
        return {name: _place(file, stamp.size_bytes, *values) for name, values in content["tensors"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as cause:
        raise DamagedCheckpoint(f"{shortened(str(listed))} is damaged. Remove its folder: it is made again.") from cause


def _place(file: str, file_bytes: int, offset: Any, dtype: Any, shape: Any) -> TensorPlace:
    """
    Raises:
        TypeError, ValueError: these are none of a tensor.
    """
    sizes = tuple(shape)
    if any(type(size) is not int or size < 0 for size in (offset, *sizes)):
        raise ValueError("no sizes")
    num_bytes = bytes_of(dtype, sizes)
    if num_bytes is None or offset + num_bytes > file_bytes:
        raise ValueError("no such tensor")
    return TensorPlace(file, offset, num_bytes, dtype, sizes)
