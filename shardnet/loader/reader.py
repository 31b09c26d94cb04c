"""What a checkpoint holds, read tensor by tensor, or some rows of a matrix at a time.

Nothing is mapped: mapped pages would count twice while a tensor is copied. A checkpoint of another dtype is converted,
and blocks of a GGUF file are unpacked, through buffers of a few MiB.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from io import FileIO

import torch
from torch import Tensor, nn

from shardnet.errors import DamagedCheckpoint, DoesNotFit
from shardnet.loader.gguf.blocks import code_bits, group_of
from shardnet.loader.gguf.reading import TORCH_TYPES, read_floats, read_grouped
from shardnet.loader.pieces import PART_MARK
from shardnet.loader.places import TensorPlace
from shardnet.loader.stored import BLOCK_TYPES, Stored, require_readable, stored_as
from shardnet.process.compute import is_out_of_memory
from shardnet.quantised.grouped import Grouped
from shardnet.quantised.schemes import Form

CONVERSION_BYTES = 4 << 20


class Reader:
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

    def __enter__(self) -> Reader:
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

    def rows_of(self, name: str, shape: torch.Size, step: int) -> Iterator[Tensor]:
        """A matrix in float32, on the CPU, so many rows at a time where they lie so in the file, else all at once."""
        stretch = self._in_order(name, shape)
        if stretch is None:
            values = torch.empty(shape)
            self._read_pieces(name, values.view(-1))
            yield values
            return
        for first in range(0, shape[0], step):
            values = torch.empty(min(step, shape[0] - first), shape[1])
            self._read_place(name, stretch.rows(first, len(values)), values.view(-1))
            yield values

    def codes_of(self, name: str, shape: torch.Size, form: Form, step: int) -> Iterator[Grouped] | None:
        """The same as its file has it; None where that is not in this form."""
        stored = stored_as(self.stored(name))
        if stored is None or stored.kind not in BLOCK_TYPES or stored.minus_one or len(self._pieces[name]) > 1:
            return None
        if (code_bits(stored.kind), group_of(stored.kind)) != (form.bits, form.group_of(shape[1])):
            return None
        return self._codes_of(name, shape, stored, step)

    def _codes_of(self, name: str, shape: torch.Size, stored: Stored, step: int) -> Iterator[Grouped]:
        stretch = self._in_order(name, shape)
        if stretch is None:
            step, stretch = shape[0], self._pieces[name][0][1]
        for first in range(0, shape[0], step):
            place = stretch.rows(first, min(step, shape[0] - first))
            yield read_grouped(partial(self._read_into, self._at(name, place), name), stored, place.shape)

    def _in_order(self, name: str, shape: torch.Size) -> TensorPlace | None:
        """Where a matrix lies row by row; None where its pieces or its rows lie otherwise."""
        self._require_whole(name, shape.numel())
        [(_, place), *others] = self._pieces[name]
        return None if others or require_readable(name, place.dtype).heads else place._replace(shape=tuple(shape))

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
            self._read_place(name, place, flat[first_element : first_element + math.prod(place.shape)])

    def _at(self, name: str, place: TensorPlace) -> FileIO:
        file = self._file(name, place.file)
        file.seek(place.offset)
        return file

    def _read_place(self, name: str, place: TensorPlace, target: Tensor) -> None:
        stored = require_readable(name, place.dtype)
        file = self._at(name, place)
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
