"""What a tensor and a checkpoint are called by what is in them: the same on every device. Pure.

A tensor's bytes are cut into parts of 4 MiB, each with its SHA-256; the tensor's *root* is the hash over its dtype, its
shape and its parts; a checkpoint's *name* is the hash over its `config.json` and its tensors' names and roots. Whoever
knows a root can check every part by itself, wherever it comes from. A tensor's own name is no part of its root: equal
tensors have equal roots.

SHA-256, since processors have instructions for it: 1.8 GB/s on one core of a server, twice what BLAKE2b gives there,
and hashlib lets other threads run meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

PART_BYTES = 4 << 20
LOCAL = "local-"
"""How names begin that hold on one machine only: those of checkpoints whose weights were not hashed yet."""


def part_hash(data: bytes | memoryview) -> str:
    """What a part is called."""
    return hashlib.sha256(data).hexdigest()


def hashes_of(data: memoryview) -> tuple[str, ...]:
    """The hashes of all parts of a tensor in memory, one byte per entry of `data`."""
    return tuple(part_hash(data[first : first + size]) for first, size in cut(len(data)))


def cut(num_bytes: int) -> list[tuple[int, int]]:
    """(first byte, number of bytes) of each part of a tensor."""
    return [(first, min(PART_BYTES, num_bytes - first)) for first in range(0, num_bytes, PART_BYTES)]


def tensor_root(dtype: str, shape: Sequence[int], hashes: Sequence[str]) -> str:
    """What a tensor is called. Args: `hashes` of its parts, in order."""
    return _hash("shardnet tensor 1", dtype, list(shape), list(hashes))


def checkpoint_name(config: bytes, roots: Mapping[str, str]) -> str:
    """What a checkpoint is called. Args: `config`, the content of config.json; `roots` of all tensors by name."""
    return _hash("shardnet checkpoint 1", part_hash(config), sorted(roots.items()))


def local_root(stamp: Sequence[int], offset: int, dtype: str, shape: Sequence[int]) -> str:
    """What a tensor that was not hashed is called on this machine: its file as it stands, and where it lies there."""
    return LOCAL + _hash("shardnet local tensor 1", list(stamp), offset, dtype, list(shape))


def local_name(config: bytes, roots: Mapping[str, str]) -> str:
    """The same for a checkpoint."""
    return LOCAL + checkpoint_name(config, roots)


def is_local(name: str) -> bool:
    """Whether a name holds on one machine only."""
    return name.startswith(LOCAL)


def _hash(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
