"""A shard's own weights, and no others, read straight into their final memory.

Nothing is mapped: mapped pages would count twice while a tensor is copied. A checkpoint of another dtype is converted,
and blocks of a GGUF file are unpacked, through buffers of a few MiB, so that the peak is the shard itself. What is for
an accelerator goes there as soon as it is read, a few tensors at a time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import partial
from io import FileIO
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shardnet.errors import DamagedCheckpoint, DoesNotFit
from shardnet.loader.few_bits import fill, look_up, name_of, num_bytes
from shardnet.loader.gguf.blocks import code_bits, group_of
from shardnet.loader.gguf.reading import TORCH_TYPES, read_floats, read_grouped
from shardnet.loader.pieces import PART_MARK
from shardnet.loader.places import TensorPlace
from shardnet.loader.stored import BLOCK_TYPES, require_readable
from shardnet.models import Shard
from shardnet.models.few_bits import Packing, hold_in_few_bits
from shardnet.models.kv import ON_CPU
from shardnet.models.skeleton import Skeleton, Slot, skeleton_to_run
from shardnet.process.compute import is_out_of_memory
from shardnet.quantised.grouped import Grouped
from shardnet.quantised.schemes import Form

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
    scheme: str | None = None,
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

    Raises:
        DamagedCheckpoint: a file ends early or is gone.
        UnsupportedModel: the family cannot be cut.
    """
    skeleton = skeleton_to_run(config, first_unit, last_unit)
    # Who opened the model found a tensor of its own behind a tied name (`ties`), or did not name it.
    skeleton.tied = {name: other for name, other in skeleton.tied.items() if name not in tensors}
    with _Reader(tensors, getattr(torch, dtype), device) as reader:
        weights = {} if weights is None else weights
        packings = hold_in_few_bits(skeleton, scheme or dtype, reader.stored, reader.dtype, device)
        units = _looked_up(skeleton, packings, reader, weights)
        if reserve is not None:
            reserve(sum(unit.missing_bytes(reader.dtype.itemsize) for unit in units))
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
    skeleton: Skeleton, packings: Mapping[int, list[Packing]], reader: _Reader, weights: Mapping[Any, Tensor]
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
    reader: _Reader,
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

    def stored(self, name: str) -> str:
        """The format that a tensor has in its file; '' where none was named for it."""
        pieces = self._pieces[name]
        return pieces[0][1].dtype if pieces else ""

    def read_wide(self, name: str, shape: torch.Size) -> Tensor:
        """A tensor in float32, on the CPU."""
        values = torch.empty(shape)
        self._read_pieces(name, values.view(-1))
        return values

    def read_codes(self, name: str, shape: torch.Size, form: Form) -> Grouped | None:
        """The same as its file has it; None where that is not in this form."""
        pieces = self._pieces[name]
        if len(pieces) != 1:
            return None
        place = pieces[0][1]
        stored = require_readable(name, place.dtype)
        is_in_form = (code_bits(stored.kind), group_of(stored.kind)) == (form.bits, form.group_of(shape[1]))
        if stored.kind not in BLOCK_TYPES or stored.minus_one or not is_in_form:
            return None
        self._require_whole(name, shape.numel())
        file = self._file(name, place.file)
        file.seek(place.offset)
        return read_grouped(partial(self._read_into, file, name), stored, shape)

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
            elif TORCH_TYPES[stored.kind] == target.dtype:
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
