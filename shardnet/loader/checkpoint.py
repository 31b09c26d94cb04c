"""Where each tensor of a checkpoint lies: file, offset, size. Reads headers and lists, never weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from shardnet.errors import DamagedCheckpoint, ModelNotFound, UnsupportedModel
from shardnet.foreign.plain_files import open_plain, parse_json, read_json
from shardnet.foreign.quoting import quoted, shortened
from shardnet.loader.gguf.kept_index import KEPT, read_kept
from shardnet.loader.places import TensorPlace
from shardnet.loader.stored import bytes_of, stored_as

OWN_NOTE = "shardnet"
"""In a file's `__metadata__`: which tensors of bytes stand for others, as {name: [how they are stored, shape]}."""
MOST_HEADER_BYTES = 6 << 20
"""Room for 50,000 tensors in a file, or names in an index. Python needs gigabytes for the 100 MB of the library."""
MOST_TENSORS = 20_000
"""In one file; 48 blocks of 128 experts are 18,900 tensors, and come in sixteen files."""
MOST_NAME = 255
MOST_DIMENSIONS = 8
MOST_SIZE = 1 << 48


def index_folder(folder: Path) -> dict[str, TensorPlace]:
    """All tensors of a model folder: `model.safetensors`, the files that `model.safetensors.index.json` names, or the
    GGUF file that it was prepared for (`gguf.kept_index`).

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
    if (folder / KEPT).is_file():
        return read_kept(folder)
    others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.h5") for path in folder.glob(pattern))
    if others:
        raise UnsupportedModel(
            f"{folder} holds its weights as {others[0]}, and only safetensors and GGUF can be read part by part. "
            "Save the model once with save_pretrained of transformers 5, which writes safetensors."
        )
    raise ModelNotFound(f"{folder} has a config.json but no model.safetensors. Copy the weights there too.")


def _index_listed(folder: Path, listing: Path) -> dict[str, TensorPlace]:
    """Of each file what the listing assigns to it, and what it does not name: some leave tensors out."""
    weight_map = _read_weight_map(listing)
    index: dict[str, TensorPlace] = {}
    names = sorted(set(weight_map.values()))
    for name in names:
        if not os.path.isfile(folder / name):
            raise DamagedCheckpoint(
                f"{listing.name} lists {len(names)} weight files and {name} is not in {shortened(str(folder))}. "
                "Download that file."
            )
        places = index_file(folder / name)
        index.update((tensor, place) for tensor, place in places.items() if weight_map.get(tensor, name) == name)
    missing = next((tensor for tensor in weight_map if tensor not in index), None)
    if missing is not None:
        raise DamagedCheckpoint(
            f"{listing.name} says that {weight_map[missing]} holds the tensor {shortened(missing)}, and it does not. "
            "Download the model again."
        )
    return index


def _read_weight_map(listing: Path) -> dict[str, str]:
    """{tensor: file}. The files are in the folder itself; what the hub's cache links from there may lie elsewhere."""
    shown = shortened(str(listing))
    content = read_json(listing, MOST_HEADER_BYTES, "the file", DamagedCheckpoint)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict):
        raise DamagedCheckpoint(f"{shown} is no list of weight files: it has no weight_map. Download it again.")
    for name in weight_map.values():
        if not isinstance(name, str) or not name or len(name) > MOST_NAME or "\0" in name:
            raise DamagedCheckpoint(
                f"{shown} is no list of weight files: {quoted(name)} is no file's name. Download it again."
            )
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise DamagedCheckpoint(
                f"{shown} names the file {quoted(name)}, which is not in the model's folder. Download it again, or put "
                "the file beside it."
            )
    return weight_map


def index_file(path: Path) -> dict[str, TensorPlace]:
    """All tensors of one safetensors file.

    Raises:
        DamagedCheckpoint: as `index_folder`.
    """
    shown = shortened(str(path))
    with open_plain(path, "the weights", DamagedCheckpoint) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        header_bytes = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or header_bytes > min(file_bytes - 8, MOST_HEADER_BYTES):
            raise DamagedCheckpoint(
                f"{shown} is damaged: its header should take {header_bytes} bytes, and the file has {file_bytes}. "
                "Download it again."
            )
        raw = file.read(header_bytes)
    places = dict(_places(raw, path, 8 + header_bytes, file_bytes))
    _refuse_overlaps(shown, places)
    return places


def _places(raw: bytes, path: Path, data_start: int, file_bytes: int) -> Iterator[tuple[str, TensorPlace]]:
    shown = shortened(str(path))
    what = f"{shown} is damaged: its header of {len(raw)} bytes is not a safetensors header"
    try:
        text = raw.decode()
    except UnicodeDecodeError as cause:
        raise DamagedCheckpoint(f"{what}. Download it again.") from cause
    header = parse_json(text, f"the header of {shown}", DamagedCheckpoint)
    if not isinstance(header, dict):
        raise DamagedCheckpoint(f"{what}. Download it again.")
    if len(header) > MOST_TENSORS:
        raise DamagedCheckpoint(
            f"{shown} speaks of {len(header)} tensors, and one file may hold {MOST_TENSORS}. Save the model in several "
            "files (max_shard_size), or download it again."
        )
    stand_for = _noted(header.get("__metadata__"), shown)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        fields = _Fields.read(entry)
        if fields is not None and name in stand_for:
            fields = fields.standing_for(*stand_for[name])
        if fields is None:
            raise DamagedCheckpoint(f"{what}: it says of {quoted(name)} {quoted(entry)}. Download it again.")
        yield name, _place(path, name, fields, data_start, file_bytes)


def _noted(metadata: Any, shown: str) -> dict[str, tuple[Any, ...]]:
    """Of the tensors that are stored in a way that safetensors has no name for: how, and their shapes."""
    note = metadata.get(OWN_NOTE) if isinstance(metadata, dict) else None
    if not isinstance(note, str):
        return {}
    noted = parse_json(note, f"the note of shardnet in {shown}", DamagedCheckpoint)
    if not isinstance(noted, dict) or any(not isinstance(each, list) or len(each) != 2 for each in noted.values()):
        raise DamagedCheckpoint(
            f"{shown} is damaged: what it says of its tensors is not what shardnet quantise writes. Make it again."
        )
    return {name: tuple(each) for name, each in noted.items()}


class _Fields(NamedTuple):
    """What a safetensors header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    first: int
    end: int

    @classmethod
    def read(cls, entry: Any) -> _Fields | None:
        """None where it is nothing that such a header may say."""
        if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
            return None
        shape, offsets = entry.get("shape"), entry.get("data_offsets")
        if not _are_sizes(shape) or not _are_sizes(offsets) or len(shape) > MOST_DIMENSIONS or len(offsets) != 2:
            return None
        return cls(entry["dtype"], tuple(shape), *offsets)

    def standing_for(self, dtype: Any, shape: Any) -> _Fields | None:
        """The tensor whose bytes these are; None where it cannot be."""
        if self.dtype != "U8" or not isinstance(dtype, str) or not _are_sizes(shape) or len(shape) > MOST_DIMENSIONS:
            return None
        is_stored_so = bytes_of(dtype, tuple(shape)) == self.end - self.first
        return self._replace(dtype=dtype, shape=tuple(shape)) if is_stored_so else None


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(each) is int and 0 <= each <= MOST_SIZE for each in values)


def _place(path: Path, name: str, fields: _Fields, data_start: int, file_bytes: int) -> TensorPlace:
    dtype, shape, first, end = fields
    what = f"the tensor {shortened(name)}"
    if data_start + end > file_bytes:
        raise DamagedCheckpoint(
            f"{shortened(str(path))} is truncated: {what} should end at byte {data_start + end}, and the file has "
            f"{file_bytes}. Download it again."
        )
    stored = stored_as(dtype)
    expected = 0 if stored is None else stored.num_bytes(shape)
    if end < first or (stored is not None and end - first != expected):
        raise DamagedCheckpoint(
            f"{shortened(str(path))} is damaged: {what} of shape {list(shape)} and type {shortened(dtype)} needs "
            f"{expected} bytes, and has {end - first}. Download it again."
        )
    return TensorPlace(str(path), data_start + first, end - first, dtype, shape)


def _refuse_overlaps(shown: str, places: Mapping[str, TensorPlace]) -> None:
    """Two tensors in the same bytes: one of them is wrong, and nobody could say which."""
    ordered = sorted(
        ((place.offset, place.offset + place.num_bytes, name) for name, place in places.items() if place.num_bytes)
    )
    for (_, end, name), (first, _, other) in pairwise(ordered):
        if first < end:
            raise DamagedCheckpoint(
                f"{shown} is damaged: the tensor {shortened(name)} ends at byte {end}, and {shortened(other)} begins "
                f"at byte {first} already. Download it again."
            )
