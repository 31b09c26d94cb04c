"""How weights travel to devices that lack them: the wire protocol of `shardnet.shipping` on one page.

Endpoints of every device:

    take_list(checkpoint, CheckpointList)        coordinator -> device; answered with the roots that lie there already
    weights_chunk(ChunkWanted)                   device -> holder, which may be the coordinator; bytes, none where they
                                                 are not there yet

Endpoints of the coordinator:

    tensor_parts(Tensors)                        device -> coordinator; TensorParts of each
    tensor_holders(HoldersWanted)                device -> coordinator; TensorHolders of each root
    tensors_held(Tensors)                        device -> coordinator: these can be had from it
    fetch_over(Tensors)                          device -> coordinator: it does not fetch these any more
    fetch_progress(RingId, FetchProgress)        device -> coordinator, while it fetches and when it has all

    model_texts(checkpoint)                      source -> coordinator; the files by which it has its tokenizer, by name
    model_vocabulary(checkpoint)                 device -> coordinator; what tokens spell, for grammars

No path travels. A tensor goes by its root, and whatever comes is checked against that: a list of parts, and each part.
"""

from __future__ import annotations

from typing import NamedTuple

MOST_CHUNK_BYTES = 1 << 20
"""Of one answer: hops of decoding wait no longer than for a few of these."""
MOST_ROOTS = 256
"""Of one question."""


class CheckpointList(NamedTuple):
    """What a checkpoint is made of. Its name is the hash over it; see `shardnet.loader.parts`."""

    config: bytes
    """The content of its `config.json`."""
    roots: dict[str, str]
    """Of all its tensors, by their names in it."""


class TensorParts(NamedTuple):
    """What a tensor is made of. Its root is the hash over it."""

    dtype: str
    shape: tuple[int, ...]
    hashes: tuple[str, ...]
    """Of its parts, in order."""


class ChunkWanted(NamedTuple):
    """Some bytes of a tensor, within one of its parts."""

    checkpoint: str
    root: str
    offset: int
    num_bytes: int


class Tensors(NamedTuple):
    """Some tensors of a checkpoint, and who speaks of them."""

    device: str
    checkpoint: str
    roots: tuple[str, ...]
    """At most `MOST_ROOTS`."""


class HoldersWanted(NamedTuple):
    """Who asks, and for what."""

    device: str
    checkpoint: str
    roots: tuple[str, ...]
    """At most `MOST_ROOTS`."""
    avoided: tuple[str, ...]
    """Holders that have failed it: they are not named again."""


class TensorHolders(NamedTuple):
    """Where a tensor can be had."""

    root: str
    holders: tuple[str, ...]
    """The nearest one first."""
    is_coming: bool
    """The only one is fetching it now, part by part."""


class FetchProgress(NamedTuple):
    """How far a device is with what it lacks of a shard."""

    device: str
    first_unit: int
    last_unit: int
    done_bytes: int
    total_bytes: int
    holders: tuple[str, ...]
    """From whom bytes came, most of them first."""
    damaged: tuple[str, ...]
    """Holders that have sent wrong bytes, which were fetched anew."""
    seconds: float


SHIPPING_MESSAGES: tuple[type, ...] = (
    CheckpointList,
    TensorParts,
    ChunkWanted,
    Tensors,
    HoldersWanted,
    TensorHolders,
    FetchProgress,
)
"""As `messages.MESSAGE_TYPES`, numbered behind those of `source_messages`."""
