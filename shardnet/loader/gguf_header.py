"""The header of a GGUF file: which tensors lie where, and a copy without its vocabulary.

The `gguf` library's reader makes objects of every token of the vocabulary, which takes seconds, and does not say which
byte is missing from a damaged file. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shardnet.errors import DamagedCheckpoint, UnsupportedModel

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
VALUE_BYTES = {0: 1, 1: 1, 7: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 10: 8, 11: 8, 12: 8}
LONG_ARRAY = 1024
"""Arrays with more entries are vocabulary: tokens, scores, merges."""
DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in the file."""

    name: str
    shape: tuple[int, ...]
    """In torch's order."""
    kind: int
    """ggml's number of the storage type."""
    offset: int
    """Bytes from the beginning of the file."""
    num_bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself."""

    path: Path
    architecture: str
    tensors: tuple[GgufTensor, ...]
    vocab_size: int
    slim: bytes
    """The header without long arrays: enough for a configuration."""
    file_bytes: int

    def write_slim(self, path: Path) -> None:
        """Write a file with the same header but no vocabulary and, where the weights were, a hole."""
        with path.open("wb") as file:
            file.write(self.slim)
            file.truncate(self.file_bytes)


def read_header(path: Path) -> GgufHeader:
    """Read the header.

    Raises:
        DamagedCheckpoint: the file is no GGUF file, or ends before it should.
        UnsupportedModel: another version of the format, or an unknown storage type.
    """
    try:
        with path.open("rb") as file:
            return _Parser(path, file).parse()
    except OSError as cause:
        raise DamagedCheckpoint(f"{path} cannot be read ({cause.strerror}).") from cause
    except (struct.error, UnicodeDecodeError, OverflowError, MemoryError) as cause:
        raise DamagedCheckpoint(
            f"{path} is a damaged GGUF file: its header makes no sense ({cause}). Download it again."
        ) from cause


class _Parser:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.file_bytes = path.stat().st_size
        self.architecture = ""
        self.alignment = DEFAULT_ALIGNMENT
        self.vocab_size = 0

    def parse(self) -> GgufHeader:
        magic = self.file.read(4)
        if magic != MAGIC:
            raise DamagedCheckpoint(
                f"{self.path} is no GGUF file: it begins with {magic!r} instead of {MAGIC!r}. "
                "Give a folder in Hugging Face layout, a .gguf file, or a hub id."
            )
        version, num_tensors, num_fields = struct.unpack("<IQQ", self._read(20))
        if version not in VERSIONS:
            raise UnsupportedModel(
                f"{self.path.name} is of version {version} of the GGUF format, and versions {VERSIONS[0]} and "
                f"{VERSIONS[1]} can be read. Convert the model again with a recent llama.cpp."
            )
        fields = [self._field() for _ in range(num_fields)]
        kept = [field for field in fields if field]
        table_start = self.file.tell()
        entries = [self._entry() for _ in range(num_tensors)]
        table_end = self.file.tell()
        self.file.seek(table_start)
        slim = MAGIC + struct.pack("<IQQ", version, num_tensors, len(kept)) + b"".join(kept)
        slim += self._read(table_end - table_start)
        data_start = -(-table_end // self.alignment) * self.alignment
        tensors = tuple(self._place(*entry, data_start) for entry in entries)
        return GgufHeader(self.path, self.architecture, tensors, self.vocab_size, slim, self.file_bytes)

    def _read(self, num_bytes: int) -> bytes:
        if num_bytes > self.file_bytes:
            raise DamagedCheckpoint(
                f"{self.path} is a damaged GGUF file: an entry of its header should take {num_bytes} bytes, and the "
                f"file has {self.file_bytes}. Download it again."
            )
        data = self.file.read(num_bytes)
        if len(data) < num_bytes:
            raise DamagedCheckpoint(
                f"{self.path} is a truncated GGUF file: it ends inside its header, after {self.file_bytes} bytes. "
                "Download it again."
            )
        return data

    def _string(self) -> bytes:
        (length,) = struct.unpack("<Q", self._read(8))
        return self._read(length)

    def _field(self) -> bytes:
        """Read one field; return its bytes, or none of them where it is a long array."""
        start = self.file.tell()
        key = self._string().decode()
        (kind,) = struct.unpack("<I", self._read(4))
        count = self._skip(kind)
        end = self.file.tell()
        if key == "tokenizer.ggml.tokens":
            self.vocab_size = count
        if count > LONG_ARRAY:
            return b""
        self.file.seek(start)
        raw = self._read(end - start)
        value = raw[8 + len(key.encode()) + 4 :]
        if key == "general.architecture":
            self.architecture = value[8:].decode()
        elif key == "general.alignment":
            (self.alignment,) = struct.unpack("<I", value)
        return raw

    def _skip(self, kind: int) -> int:
        """Pass over a value; return how many entries it had."""
        if kind == STRING:
            self._string()
            return 1
        if kind in VALUE_BYTES:
            self._read(VALUE_BYTES[kind])
            return 1
        if kind != ARRAY:
            raise DamagedCheckpoint(f"{self.path} is damaged: it has a field of the type {kind}. Download it again.")
        entry_kind, count = struct.unpack("<IQ", self._read(12))
        if entry_kind in VALUE_BYTES:
            self._read(VALUE_BYTES[entry_kind] * count)
        else:
            for _ in range(count):
                self._skip(entry_kind)
        return int(count)

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string().decode()
        (num_dims,) = struct.unpack("<I", self._read(4))
        dims = struct.unpack(f"<{num_dims}Q", self._read(8 * num_dims))
        kind, offset = struct.unpack("<IQ", self._read(12))
        return name, tuple(reversed(dims)), kind, offset

    def _place(self, name: str, shape: tuple[int, ...], kind: int, offset: int, data_start: int) -> GgufTensor:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            block_elements, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError) as cause:
            raise UnsupportedModel(
                f"{self.path.name} stores {name} in the format number {kind}, which the package gguf does not know. "
                "Update it (pip install -U gguf), or use another quantisation of the model."
            ) from cause
        num_bytes = math.prod(shape) // block_elements * block_bytes
        end = data_start + offset + num_bytes
        if end > self.file_bytes:
            raise DamagedCheckpoint(
                f"{self.path} is truncated: the tensor {name} should end at byte {end}, and the file has "
                f"{self.file_bytes}. Download it again."
            )
        return GgufTensor(name, shape, kind, data_start + offset, num_bytes)
