"""The header of a GGUF file: which tensors lie where, and a copy without its vocabulary.

The `gguf` library's reader makes objects of every token of the vocabulary, which takes seconds, and does not say which
byte is missing from a damaged file. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from shardnet.errors import DamagedCheckpoint, UnsupportedModel
from shardnet.foreign.quoting import quoted
from shardnet.loader.gguf.bounds import check_metadata, checked_alignment, refuse_overlaps

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
LABELS = "classifier.output_labels"
"""The names of a model's classes, behind its architecture."""
VALUES = {0: "<B", 1: "<b", 7: "<?", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q", 12: "<d"}
VALUE_BYTES = {kind: struct.calcsize(form) for kind, form in VALUES.items()}
LONG_ARRAY = 1024
"""Arrays with more entries are vocabulary: tokens, scores, merges."""
DEFAULT_ALIGNMENT = 32
MOST_FIELDS = 1 << 12
MOST_TENSORS = 1 << 17
MOST_DIMENSIONS = 8
MOST_TEXTS = 1 << 20
"""Of a list: no vocabulary and no list of merges is as long."""
MOST_TEXTS_IN_ALL = 1 << 21
MOST_TEXT_BYTES = 16 << 20
MOST_TEXT_BYTES_IN_ALL = 128 << 20
"""Of keys, names, values and lists together: as much as the file of a tokenizer may have."""
MOST_KEY_BYTES = 1 << 16


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

    @property
    def kind_name(self) -> str:
        """That type's name: "Q4_1"."""
        from gguf.constants import GGMLQuantizationType

        return GGMLQuantizationType(self.kind).name


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself."""

    path: Path
    architecture: str
    tensors: tuple[GgufTensor, ...]
    vocab_size: int
    metadata: dict[str, Any]
    """The fields that have one value each, and the names of classes."""
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
        UnsupportedModel: another version of the format, or an unknown storage type, or one part of a model.
    """
    try:
        with path.open("rb") as file:
            return parse_header(path, file, path.stat().st_size)
    except OSError as cause:
        raise DamagedCheckpoint(f"{path} cannot be read ({cause.strerror}).") from cause


class Readable(Protocol):
    """What is asked of a file whose header is read."""

    def tell(self) -> int: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def read(self, num_bytes: int, /) -> bytes: ...


def parse_header(path: Path, file: Readable, file_bytes: int) -> GgufHeader:
    """The same of a file that need not be here: what is read of it is its header alone.

    Args:
        path: what messages call it.
        file_bytes: of the whole file.

    Raises:
        DamagedCheckpoint, UnsupportedModel: as `read_header`.
    """
    try:
        return _Parser(path, file, file_bytes).parse()
    except (struct.error, UnicodeDecodeError, OverflowError, MemoryError) as cause:
        raise DamagedCheckpoint(
            f"{path} is a damaged GGUF file: its header makes no sense ({cause}). Download it again."
        ) from cause


class _Parser:
    def __init__(self, path: Path, file: Readable, file_bytes: int) -> None:
        self.path = path
        self.file = file
        self.file_bytes = file_bytes
        self.vocab_size = 0
        self.metadata: dict[str, Any] = {}
        """The fields that have one value each."""
        self._num_texts = self._text_bytes_in_all = 0
        """So far."""

    def parse(self) -> GgufHeader:
        version, num_tensors, num_fields = self._beginning()
        kept = [field for _ in range(num_fields) if (field := self._field())]
        shown = str(self.path)
        check_metadata(self.metadata, shown)
        self._refuse_part()
        alignment = checked_alignment(self.metadata.get("general.alignment", DEFAULT_ALIGNMENT), shown)
        table_start = self.file.tell()
        entries = [self._entry() for _ in range(num_tensors)]
        table_end = self.file.tell()
        self.file.seek(table_start)
        slim = MAGIC + struct.pack("<IQQ", version, num_tensors, len(kept)) + b"".join(kept)
        slim += self._read(table_end - table_start)
        data_start = -(-table_end // alignment) * alignment
        tensors = tuple(self._place(*entry, data_start) for entry in entries)
        refuse_overlaps(tensors, shown)
        architecture = str(self.metadata.get("general.architecture", ""))
        return GgufHeader(self.path, architecture, tensors, self.vocab_size, self.metadata, slim, self.file_bytes)

    def _beginning(self) -> tuple[int, int, int]:
        """(version, number of tensors, number of fields)"""
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
        self._check_count("tensors", num_tensors, MOST_TENSORS)
        self._check_count("fields", num_fields, MOST_FIELDS)
        return version, num_tensors, num_fields

    def _refuse_part(self) -> None:
        num_files = self.metadata.get("split.count")
        if isinstance(num_files, int) and num_files > 1:
            raise UnsupportedModel(
                f"{self.path.name} is one of the {num_files} files of a model, and only files that hold a whole one "
                "can be read. Join them: llama-gguf-split --merge FIRST-FILE NEW-FILE."
            )

    def _check_count(self, what: str, count: int, most: int) -> None:
        """What a file says of itself is looked at before anything is done so many times, or gets so much memory."""
        if count > most:
            raise DamagedCheckpoint(
                f"{self.path} is a damaged GGUF file: its header speaks of {count} {what}, and at most {most} can be "
                "meant. Download it again."
            )

    def _require(self, num_bytes: int) -> None:
        """See that the file goes on for so many bytes."""
        if num_bytes > self.file_bytes:
            raise DamagedCheckpoint(
                f"{self.path} is a damaged GGUF file: an entry of its header should take {num_bytes} bytes, and the "
                f"file has {self.file_bytes}. Download it again."
            )
        if self.file.tell() + num_bytes > self.file_bytes:
            raise DamagedCheckpoint(
                f"{self.path} is a truncated GGUF file: it ends inside its header, after {self.file_bytes} bytes. "
                "Download it again."
            )

    def _read(self, num_bytes: int) -> bytes:
        self._require(num_bytes)
        return self.file.read(num_bytes)

    def _pass_over(self, num_bytes: int) -> None:
        self._require(num_bytes)
        self.file.seek(num_bytes, 1)

    def _text_bytes(self, most: int) -> int:
        (length,) = struct.unpack("<Q", self._read(8))
        self._require(length)
        self._check_count("bytes in one text", length, most)
        self._text_bytes_in_all += length
        self._check_count("bytes in all texts", self._text_bytes_in_all, MOST_TEXT_BYTES_IN_ALL)
        return int(length)

    def _field(self) -> bytes:
        """Read one field; return its bytes, or none of them where it is a long array."""
        start = self.file.tell()
        key = self._read(self._text_bytes(MOST_KEY_BYTES)).decode()
        (kind,) = struct.unpack("<I", self._read(4))
        if kind == STRING:
            self.metadata[key] = self._read(self._text_bytes(MOST_TEXT_BYTES)).decode(errors="replace")
        elif kind in VALUES:
            (self.metadata[key],) = struct.unpack(VALUES[kind], self._read(VALUE_BYTES[kind]))
        elif kind == ARRAY:
            if key.endswith(f".{LABELS}"):
                self.metadata[key] = self._texts()
            count = self._pass_over_array()
            if key == "tokenizer.ggml.tokens":
                self.vocab_size = count
            if count > LONG_ARRAY:
                return b""
        else:
            raise DamagedCheckpoint(f"{self.path} is damaged: it has a field of the type {kind}. Download it again.")
        end = self.file.tell()
        self.file.seek(start)
        return self._read(end - start)

    def _texts(self) -> list[str]:
        """What a list of texts says; it is still to be passed over."""
        start = self.file.tell()
        kind, count = struct.unpack("<IQ", self._read(12))
        if kind != STRING or count > LONG_ARRAY:
            raise DamagedCheckpoint(
                f"{self.path} is damaged: its labels are no list of up to {LONG_ARRAY} texts. Download it again."
            )
        texts = [self._read(self._text_bytes(MOST_KEY_BYTES)).decode(errors="replace") for _ in range(count)]
        self.file.seek(start)
        return texts

    def _pass_over_array(self) -> int:
        """Pass over a list; return how many entries it had."""
        kind, count = struct.unpack("<IQ", self._read(12))
        if kind in VALUES:
            self._pass_over(VALUE_BYTES[kind] * count)
        elif kind == STRING:
            self._require(8 * count)
            self._check_count("texts in one list", count, MOST_TEXTS)
            self._num_texts += count
            self._check_count("texts in all lists", self._num_texts, MOST_TEXTS_IN_ALL)
            for _ in range(count):
                self._pass_over(self._text_bytes(MOST_TEXT_BYTES))
        else:
            raise DamagedCheckpoint(
                f"{self.path} is damaged: it has a list of entries of the type {kind}. Download it again."
            )
        return int(count)

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._read(self._text_bytes(MOST_KEY_BYTES)).decode()
        (num_dims,) = struct.unpack("<I", self._read(4))
        self._check_count("dimensions of a tensor", num_dims, MOST_DIMENSIONS)
        dims = struct.unpack(f"<{num_dims}Q", self._read(8 * num_dims))
        kind, offset = struct.unpack("<IQ", self._read(12))
        return name, tuple(reversed(dims)), kind, offset

    def _place(self, name: str, shape: tuple[int, ...], kind: int, offset: int, data_start: int) -> GgufTensor:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            block_elements, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError) as cause:
            raise UnsupportedModel(
                f"{self.path.name} stores {quoted(name)} in the format number {kind}, which the package gguf does not "
                "know. Update it (pip install -U gguf), or use another quantisation of the model."
            ) from cause
        if not all(shape) or not shape or shape[-1] % block_elements:
            raise DamagedCheckpoint(
                f"{self.path} is damaged: the tensor {quoted(name)} of the shape {list(shape)} cannot be stored in "
                f"blocks of {block_elements}. Download it again."
            )
        num_bytes = math.prod(shape) // block_elements * block_bytes
        end = data_start + offset + num_bytes
        if end > self.file_bytes:
            raise DamagedCheckpoint(
                f"{self.path} is truncated: the tensor {quoted(name)} should end at byte {end}, and the file has "
                f"{self.file_bytes}. Download it again."
            )
        return GgufTensor(name, shape, kind, data_start + offset, num_bytes)
