"""Writes a safetensors file tensor by tensor, in any order: the library's own writer wants all of them in memory.

Hashes what it writes, so that the file need not be read again for that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from shardnet.loader.parts import hashes_of

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
ALIGNMENT = 64


class SafetensorsWriter:
    """A file that gets tensors of known shapes and one dtype. A context manager."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._offsets: dict[str, int] = {}
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in shapes.items():
            start, end = end, end + math.prod(shape) * dtype.itemsize
            self._offsets[name] = start
            header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % ALIGNMENT)
        self._data_start = 8 + len(text)
        self._missing = dict.fromkeys(shapes)
        self.hashes: dict[str, tuple[str, ...]] = {}
        """Of the parts of each tensor that was written."""
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(self._data_start + end)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, name: str, values: Tensor) -> None:
        """Convert one tensor to the file's dtype and put it in its place."""
        self._file.seek(self._data_start + self._offsets[name])
        raw = values.to(self._dtype).contiguous().view(-1).view(torch.uint8).numpy()
        self._file.write(raw.data)
        self.hashes[name] = hashes_of(raw.data)
        self._missing.pop(name, None)

    def missing(self) -> list[str]:
        """The tensors that were not written yet."""
        return list(self._missing)
