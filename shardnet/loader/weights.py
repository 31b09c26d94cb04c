"""A shard's own weights, and no others, read straight into their final memory.

Nothing is mapped: mapped pages would count twice while a tensor is copied. A checkpoint of another dtype is converted,
and blocks of a GGUF file are unpacked, through buffers of a few MiB, so that the peak is the shard itself. What is for
an accelerator goes there as soon as it is read, a few tensors at a time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from io import FileIO
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shardnet.errors import DamagedCheckpoint, DoesNotFit
from shardnet.loader.gguf.reading import TORCH_TYPES, read_floats
from shardnet.loader.pieces import PART_MARK
from shardnet.loader.places import TensorPlace
from shardnet.loader.stored import require_readable
from shardnet.models import Shard
from shardnet.models.kv import ON_CPU
from shardnet.models.skeleton import Slot, skeleton_to_run
from shardnet.process.compute import is_out_of_memory

CONVERSION_BYTES = 4 << 20

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

    Raises:
        DamagedCheckpoint: a file ends early or is gone.
        UnsupportedModel: the family cannot be cut.
    """
    skeleton = skeleton_to_run(config, first_unit, last_unit)
    # Who opened the model found a tensor of its own behind a tied name (`ties`), or did not name it.
    skeleton.tied = {name: other for name, other in skeleton.tied.items() if name not in tensors}
    with _Reader(tensors, getattr(torch, dtype), device) as reader:
        weights = {} if weights is None else weights
        units = _looked_up((skeleton.neighbours(modules) for _, modules in skeleton.units()), reader, weights)
        if reserve is not None:
            num_new = sum(group.num_elements for group in chain.from_iterable(units) if group.kept is None)
            reserve(num_new * reader.dtype.itemsize)
        held = _fill(units, reader, weights, progress)
    skeleton.move_buffers(device)
    return Shard(skeleton.config, skeleton.family, skeleton.filled(held), reader.dtype, reader.bytes_read)


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


def _looked_up(
    units: Iterable[Iterable[Sequence[Slot]]], reader: _Reader, weights: Mapping[Any, Tensor]
) -> list[list[_Group]]:
    """The groups of each unit. What is found among `weights` stays as long as they do."""
    seen: set[str] = set()
    found = []
    for unit in units:
        groups = []
        for slots in unit:
            shapes = {slot.name: slot.shape for slot in slots if slot.name not in seen}
            seen |= shapes.keys()
            kept = {name: tensor for name in shapes if (tensor := weights.get(reader.key(name))) is not None}
            groups.append(_Group(slots, shapes, kept if len(kept) == len(shapes) else None))
        found.append(groups)
    return found


def _fill(
    units: Sequence[Sequence[_Group]],
    reader: _Reader,
    weights: MutableMapping[Any, Tensor],
    progress: ByteProgress | None,
) -> dict[str, Tensor]:
    """Put a real tensor into every slot; return the tensors by name, each once."""
    total = sum(group.num_elements for group in chain.from_iterable(units)) * reader.dtype.itemsize
    held: dict[str, Tensor] = {}
    done = 0
    for groups in units:
        for group in groups:
            held |= _read(group, reader, weights) if group.kept is None else group.kept
            done += group.num_elements * reader.dtype.itemsize
            _put(held, group.slots)
        if progress:
            progress(done, total)
    return held


def _read(group: _Group, reader: _Reader, weights: MutableMapping[Any, Tensor]) -> dict[str, Tensor]:
    """A group's tensors out of the files; other shards on this device may use them."""
    tensors = reader.read(group.shapes)
    weights.update((reader.key(name), tensor) for name, tensor in tensors.items())
    return tensors


def _put(held: Mapping[str, Tensor], slots: Sequence[Slot]) -> None:
    for slot in slots:
        place = slot.module._buffers if slot.is_buffer else slot.module._parameters
        place[slot.attribute] = held[slot.name]  # type: ignore[assignment]


class _Reader:
    """Reads tensors piece by piece, keeping each file open once."""

    def __init__(self, tensors: Mapping[str, TensorPlace], dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self._device = device
        self.bytes_read = 0
        self._pieces: dict[str, list[tuple[int, TensorPlace]]] = defaultdict(list)
        for key, place in tensors.items():
            name, _, first_element = key.partition(PART_MARK)
            self._pieces[name].append((int(first_element or 0), place))
        self._open: dict[str, FileIO] = {}
        self._buffer: Tensor | None = None

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()

    def read(self, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Tensors by name, one behind the other in memory."""
        sizes = [shape.numel() for shape in shapes.values()]
        memory = torch.empty(sum(sizes), dtype=self.dtype)
        for name, part in zip(shapes, memory.split(sizes), strict=True):
            self._read_pieces(name, part)
        parts = self._moved(memory).split(sizes)
        return {
            name: nn.Parameter(part.view(shape), requires_grad=False)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }

    def _moved(self, memory: Tensor) -> Tensor:
        """To where it is wanted.

        Raises:
            DoesNotFit: there is no room: others have taken it since it was reserved.
        """
        try:
            return memory.to(self._device)
        except RuntimeError as cause:
            if not is_out_of_memory(cause):
                raise
            raise DoesNotFit(
                f"{self._device} has no room for {memory.nbytes / 2**20:.1f} MiB of weights any more. End other "
                "programs that use it, or add a device."
            ) from cause

    def key(self, name: str) -> tuple[torch.dtype, str, tuple[tuple[int, str], ...]]:
        """Of a tensor: wherever its pieces lie, the same roots make the same tensor."""
        assert all(place.root for _, place in self._pieces[name]), "the checkpoint was not looked at as a whole"
        return self.dtype, name, tuple((first_element, place.root) for first_element, place in self._pieces[name])

    def _read_pieces(self, name: str, flat: Tensor) -> None:
        self._require_whole(name, len(flat))
        for first_element, place in self._pieces[name]:
            stored = require_readable(name, place.dtype)
            target = flat[first_element : first_element + math.prod(place.shape)]
            file = self._file(name, place.file)
            file.seek(place.offset)
            if not stored.is_plain:
                read_floats(partial(self._read_into, file, name), stored, place.shape, target)
            elif TORCH_TYPES[stored.kind] == self.dtype:
                self._read_into(file, name, target)
            else:
                self._convert_into(file, name, target, TORCH_TYPES[stored.kind])

    def _require_whole(self, name: str, num_elements: int) -> None:
        """Memory that no piece fills would pass for weights: who named the pieces may know another layout than ours."""
        end = 0
        for first_element, place in sorted(self._pieces[name], key=lambda piece: piece[0]):
            if first_element != end:
                break
            end += math.prod(place.shape)
        if end != num_elements:
            raise DamagedCheckpoint(
                f"The tensor {name} has {num_elements} numbers and what was named for it fills {end} of them in order. "
                "Install the same versions of shardnet and transformers on all devices."
            )

    def _file(self, name: str, path: str) -> FileIO:
        if path not in self._open:
            try:
                self._open[path] = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by __exit__)
            except OSError as cause:
                raise DamagedCheckpoint(
                    f"{path}, which holds the tensor {name}, cannot be opened ({cause.strerror}). "
                    "Put the file back, or download the model again."
                ) from cause
        return self._open[path]

    def _read_into(self, file: FileIO, name: str, target: Tensor) -> None:
        """Fill a flat tensor with the file's next bytes."""
        view = memoryview(target.view(torch.uint8).numpy())  # type: ignore[arg-type]
        done = 0
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise DamagedCheckpoint(
                    f"{file.name} ends inside the tensor {name}: {len(view) - done} of {len(view)} bytes are missing. "
                    "Download it again."
                )
            done += count
        self.bytes_read += done

    def _convert_into(self, file: FileIO, name: str, target: Tensor, dtype: torch.dtype) -> None:
        """Fill a flat tensor from a file of another dtype, a few MiB at a time."""
        if self._buffer is None:
            self._buffer = torch.empty(CONVERSION_BYTES, dtype=torch.uint8)
        step = CONVERSION_BYTES // dtype.itemsize
        for first in range(0, len(target), step):
            part = target[first : first + step]
            source = self._buffer[: len(part) * dtype.itemsize].view(dtype)
            self._read_into(file, name, source)
            part.copy_(source)
