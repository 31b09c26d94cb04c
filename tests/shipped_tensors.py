"""Tensors for tests of how weights travel."""

from __future__ import annotations

import random

from shardnet.loader.parts import hashes_of, tensor_root
from shardnet.transport.shipping_messages import TensorParts


def tensor(seed: int, num_bytes: int) -> tuple[str, TensorParts, bytes]:
    """(root, parts, bytes) of one that nobody else has."""
    data = random.Random(seed).randbytes(num_bytes)
    hashes = hashes_of(memoryview(data))
    return tensor_root("U8", (num_bytes,), hashes), TensorParts("U8", (num_bytes,), hashes), data
