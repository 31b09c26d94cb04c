"""Where each tensor of a safetensors checkpoint lies: file, offset, size. Reads headers, never weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardnet.errors import DamagedCheckpoint, ModelNotFound, UnsupportedModel

from .places import TensorPlace

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000  # as the safetensors library has it


def index_folder(folder: Path) -> dict[str, TensorPlace]:
    """All tensors of a model folder: `model.safetensors`, or the files that `model.safetensors.index.json` names.

    Raises:
        ModelNotFound: the folder holds no weights.
        UnsupportedModel: it holds them in another format.
        DamagedCheckpoint: a file is missing, truncated or no safetensors file.
    """
    listing = folder / "model.safetensors.index.json"
    if listing.is_file():
        return _index_listed(folder, listing)
    single = folder / "model.safetensors"
    if single.is_file():
        return index_file(single)
    others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.h5") for path in folder.glob(pattern))
    if others:
        raise UnsupportedModel(
            f"{folder} holds its weights as {others[0]}, and only safetensors and GGUF can be read part by part. "
            "Save the model once with save_pretrained of transformers 5, which writes safetensors."
        )
    raise ModelNotFound(f"{folder} has a config.json but no model.safetensors. Copy the weights there too.")


def _index_listed(folder: Path, listing: Path) -> dict[str, TensorPlace]:
    try:
        weight_map = json.loads(listing.read_text())["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, AttributeError, TypeError) as cause:
        raise DamagedCheckpoint(f"{listing} is no list of weight files ({cause}). Download it again.") from cause
    index: dict[str, TensorPlace] = {}
    for name in names:
        if not (folder / name).is_file():
            raise DamagedCheckpoint(
                f"{listing.name} lists {len(names)} weight files and {name} is not in {folder}. Download that file."
            )
        index.update(index_file(folder / name))
    missing = next((tensor for tensor in weight_map if tensor not in index), None)
    if missing is not None:
        raise DamagedCheckpoint(
            f"{listing.name} says that {weight_map[missing]} holds the tensor {missing}, and it does not. "
            "Download the model again."
        )
    return index


def index_file(path: Path) -> dict[str, TensorPlace]:
    """All tensors of one safetensors file.

    Raises:
        DamagedCheckpoint: as `index_folder`.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_bytes = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or header_bytes > min(file_bytes - 8, MAX_HEADER_BYTES):
            raise DamagedCheckpoint(
                f"{path} is damaged: its header should take {header_bytes} bytes, and the file has {file_bytes}. "
                "Download it again."
            )
        raw = file.read(header_bytes)
    try:
        header = json.loads(raw)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _entry(path, name, entry, 8 + header_bytes, file_bytes) for name, entry in entries.items()}
    except (ValueError, KeyError, AttributeError, TypeError) as cause:
        raise DamagedCheckpoint(
            f"{path} is damaged: its header of {header_bytes} bytes is not a safetensors header. Download it again."
        ) from cause


def _entry(path: Path, name: str, entry: Mapping[str, Any], data_start: int, file_bytes: int) -> TensorPlace:
    first, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(size) for size in entry["shape"])
    dtype = str(entry["dtype"])
    if data_start + end > file_bytes or first < 0:
        raise DamagedCheckpoint(
            f"{path} is truncated: the tensor {name} should end at byte {data_start + end}, and the file has "
            f"{file_bytes}. Download it again."
        )
    expected = math.prod(shape) * ITEM_BYTES.get(dtype, 0)
    if dtype in ITEM_BYTES and end - first != expected:
        raise DamagedCheckpoint(
            f"{path} is damaged: the tensor {name} of shape {list(shape)} and type {dtype} needs {expected} bytes, and "
            f"has {end - first}. Download it again."
        )
    return TensorPlace(str(path), data_start + first, end - first, dtype, shape)
