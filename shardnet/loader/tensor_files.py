"""Safetensors files of tensors in any dtype, also of those that safetensors has no name for: see `checkpoint.OWN_NOTE`.

A file is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from shardnet.errors import DamagedCheckpoint
from shardnet.foreign.quoting import shortened
from shardnet.loader.checkpoint import OWN_NOTE, index_file
from shardnet.loader.gguf.reading import TORCH_TYPES
from shardnet.loader.places import TensorPlace
from shardnet.loader.safetensors_writer import ALIGNMENT, DTYPE_NAMES
from shardnet.loader.stored import FLOAT_TYPES
from shardnet.loader.whole_files import PART

COPIED_BYTES = 4 << 20
"""At a time."""


class Content(NamedTuple):
    """A tensor that is to be written."""

    dtype: str
    """As `stored` knows it."""
    shape: tuple[int, ...]
    source: Tensor | TensorPlace
    """Its numbers, or its bytes as uint8; or where these lie in another file."""

    @property
    def num_bytes(self) -> int:
        return self.source.num_bytes if isinstance(self.source, TensorPlace) else self.source.nbytes


def write_tensors(path: Path, tensors: Mapping[str, Content]) -> None:
    """
    Raises:
        OSError: it cannot be written, or what is copied cannot be read.
    """
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, suffix=PART, delete=False) as file:
        try:
            file.write(_header(tensors))
            for content in tensors.values():
                for piece in _pieces(content):
                    file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(file.name)
            raise


def read_floats_of(path: Path) -> dict[str, Tensor]:
    """All tensors of a file that has plain numbers only.

    Raises:
        DamagedCheckpoint: it is no such file.
        OSError: it is gone.
    """
    found: dict[str, Tensor] = {}
    with path.open("rb") as file:
        for name, place in index_file(path).items():
            dtype = TORCH_TYPES.get(place.dtype)
            if dtype is None or not place.num_bytes:
                raise DamagedCheckpoint(f"{shortened(str(path))} is damaged: {shortened(name)} holds no numbers.")
            file.seek(place.offset)
            found[name] = torch.frombuffer(bytearray(file.read(place.num_bytes)), dtype=dtype).view(place.shape)
    return found


def floats(values: Tensor) -> Content:
    """Numbers as they are."""
    return Content(DTYPE_NAMES[values.dtype], tuple(values.shape), values)


def _header(tensors: Mapping[str, Content]) -> bytes:
    header: dict[str, object] = {}
    note: dict[str, Sequence[object]] = {}
    end = 0
    for name, content in tensors.items():
        start, end = end, end + content.num_bytes
        dtype, shape = content.dtype, list(content.shape)
        if dtype not in FLOAT_TYPES:
            note[name] = (dtype, shape)
            dtype, shape = "U8", [content.num_bytes]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    metadata = {"format": "pt"} | ({OWN_NOTE: json.dumps(note)} if note else {})
    text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _pieces(content: Content) -> Iterator[bytes | memoryview]:
    source = content.source
    if isinstance(source, Tensor):
        yield source.contiguous().view(-1).view(torch.uint8).numpy().data
        return
    with open(source.file, "rb") as file:
        file.seek(source.offset)
        yield from _read(file, source.num_bytes)


def _read(file: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    while num_bytes:
        piece = file.read(min(num_bytes, COPIED_BYTES))
        if not piece:
            raise OSError(f"{file.name} has become shorter")
        num_bytes -= len(piece)
        yield piece
