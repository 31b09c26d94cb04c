"""Which tensors of a tied model are one: a checkpoint that holds both with different values means both."""

from __future__ import annotations

from collections.abc import Mapping

from shardnet.loader.places import TensorPlace

CHUNK_BYTES = 4 << 20


def ties_that_hold(tied: Mapping[str, str], stored: Mapping[str, TensorPlace]) -> dict[str, str]:
    """The ties of a configuration without those that the checkpoint contradicts, as transformers decides, too.

    A head that was trained on its own is often saved beside a configuration that still says `tie_word_embeddings`.

    Args:
        tied: names of tensors that are views of others.
        stored: where the checkpoint's tensors lie.
    """
    return {name: other for name, other in tied.items() if not _differ(stored.get(name), stored.get(other))}


def _differ(one: TensorPlace | None, other: TensorPlace | None) -> bool:
    if one is None or other is None:
        return False
    if (one.dtype, one.shape, one.num_bytes) != (other.dtype, other.shape, other.num_bytes):
        return True
    with open(one.file, "rb") as first, open(other.file, "rb") as second:
        first.seek(one.offset)
        second.seek(other.offset)
        for done in range(0, one.num_bytes, CHUNK_BYTES):
            size = min(CHUNK_BYTES, one.num_bytes - done)
            if first.read(size) != second.read(size):
                return True
    return False
