"""A shard's own weights, and no others, read straight into their final memory.

The peak is the shard itself: what reads it (`reader`) takes a few MiB beside it. What is for an accelerator goes there
as soon as it is read, a few tensors at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shardnet.loader.few_bits import fill, look_up, name_of, num_bytes
from shardnet.loader.places import TensorPlace
from shardnet.loader.reader import Reader
from shardnet.models import Shard
from shardnet.models.few_bits import hold_in_few_bits
from shardnet.models.kv import ON_CPU
from shardnet.models.packings import Packing
from shardnet.models.skeleton import Skeleton, Slot, skeleton_to_run
from shardnet.plan import KernelOrder
from shardnet.process.allocator import return_freed
from shardnet.quantised.kv_names import AUTO as KV_AUTO

ByteProgress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""
Reserve = Callable[[int], None]
"""Called with the bytes of memory that will be taken, before any is."""


def load_shard(
    config: Any,
    tensors: Mapping[str, TensorPlace],
    first_unit: int,
    last_unit: int,
    dtype: str,
    weights: MutableMapping[Any, Tensor] | None = None,
    reserve: Reserve | None = None,
    progress: ByteProgress | None = None,
    device: torch.device = ON_CPU,
    scheme: str | None = None,
    by_unit: Sequence[str] = (),
    kv_dtype: str = KV_AUTO,
    kernels: Sequence[KernelOrder] = (),
) -> Shard:
    """Build units first_unit..last_unit, both included, and read their weights.

    Args:
        config: of the whole model: a `transformers` one, or a `PlainConfig`.
        tensors: where the weights are (`Copy.places_of`, or on the coordinator `ModelFiles.tensors_of`).
        weights: the tensors that this device holds already, by dtype, name and root (see `parts`), of whichever model;
            what is in there is used and not read again, and what is read is added. A `weakref.WeakValueDictionary`
            keeps just what shards still use.
        reserve: what it raises ends the load.
        device: where it is to compute.
        scheme: in how many bits weights are held, one of `schemes.SCHEMES`; None: all in `dtype`.
        by_unit: the same of each unit of the model, where units differ.
        kv_dtype: in what keys and values are to be kept, one of `kv_names.KV_DTYPES`.
        kernels: which hold a matrix of few bits on this device, as far as that was timed.

    Raises:
        DamagedCheckpoint: a file ends early or is gone.
        UnsupportedModel: the family cannot be cut.
    """
    skeleton = skeleton_to_run(config, first_unit, last_unit)
    # Who opened the model found a tensor of its own behind a tied name (`ties`), or did not name it.
    skeleton.tied = {name: other for name, other in skeleton.tied.items() if name not in tensors}
    with Reader(tensors, getattr(torch, dtype), device) as reader:
        weights = {} if weights is None else weights
        packings = hold_in_few_bits(skeleton, by_unit or scheme or dtype, reader.stored, reader.dtype, device, kernels)
        units = _looked_up(skeleton, packings, reader, weights)
        if reserve is not None:
            reserve(sum(unit.missing_bytes(reader.dtype.itemsize) for unit in units))
        held = _fill(units, reader, weights, progress)
    return_freed()  # what numbers were unpacked into and rounded in on the way
    skeleton.move_buffers(device)
    return Shard(skeleton.config, skeleton.family, skeleton.filled(held), reader.dtype, reader.bytes_read, kv_dtype)


class _Group(NamedTuple):
    """Tensors that stay together in memory, one behind the other."""

    slots: Sequence[Slot]
    shapes: dict[str, torch.Size]
    """Of its tensors by name, without those that a group before it has."""
    kept: dict[str, Tensor] | None
    """These tensors, where this device holds all of them already; else all are read anew."""

    @property
    def num_elements(self) -> int:
        return sum(shape.numel() for shape in self.shapes.values())


class _Unit(NamedTuple):
    """What a unit is filled with."""

    groups: list[_Group]
    packings: list[Packing]
    missing: list[Packing]
    """Those that this device has not, and that no unit before this one has."""

    def num_bytes(self, item_bytes: int) -> int:
        return sum(group.num_elements for group in self.groups) * item_bytes + num_bytes(self.packings)

    def missing_bytes(self, item_bytes: int) -> int:
        """Of what is to be read."""
        num_new = sum(group.num_elements for group in self.groups if group.kept is None)
        return num_new * item_bytes + num_bytes(self.missing)


def _looked_up(
    skeleton: Skeleton, packings: Mapping[int, list[Packing]], reader: Reader, weights: Mapping[Any, Tensor]
) -> list[_Unit]:
    """What each unit is made of. What is found among `weights` stays as long as they do."""
    seen: set[str] = set()
    matrices: set[Any] = set()
    found = []
    for index, modules in skeleton.units():
        groups = []
        for slots in skeleton.neighbours(modules):
            shapes = {slot.name: slot.shape for slot in slots if slot.name not in seen}
            seen |= shapes.keys()
            kept = {name: tensor for name in shapes if (tensor := weights.get(reader.key(name))) is not None}
            groups.append(_Group(slots, shapes, kept if len(kept) == len(shapes) else None))
        own = packings[index]
        new = [packing for packing in own if name_of(packing, reader) not in matrices]
        matrices |= {name_of(packing, reader) for packing in new}
        found.append(_Unit(groups, own, [packing for packing in new if not look_up(packing, reader, weights)]))
    return found


def _fill(
    units: Sequence[_Unit],
    reader: Reader,
    weights: MutableMapping[Any, Tensor],
    progress: ByteProgress | None,
) -> dict[str, Tensor]:
    """Put a real tensor into every slot; return the tensors by name, each once."""
    item_bytes = reader.dtype.itemsize
    total = sum(unit.num_bytes(item_bytes) for unit in units)
    held: dict[str, Tensor] = {}
    done = 0
    for unit in units:
        for group in unit.groups:
            held |= _read(group, reader, weights) if group.kept is None else group.kept
            _put(held, group.slots)
        for packing in unit.packings:
            if not look_up(packing, reader, weights):
                fill(packing, reader, weights)
        done += unit.num_bytes(item_bytes)
        if progress:
            progress(done, total)
    return held


def _read(group: _Group, reader: Reader, weights: MutableMapping[Any, Tensor]) -> dict[str, Tensor]:
    """A group's tensors out of the files; other shards on this device may use them."""
    tensors = reader.read(group.shapes)
    weights.update((reader.key(name), tensor) for name, tensor in tensors.items())
    return tensors


def _put(held: Mapping[str, Tensor], slots: Sequence[Slot]) -> None:
    for slot in slots:
        place = slot.module._buffers if slot.is_buffer else slot.module._parameters
        place[slot.attribute] = held[slot.name]  # type: ignore[assignment]
