"""What a checkpoint holds, read tensor by tensor, or some rows of a matrix at a time.

Nothing is mapped: mapped pages would count twice while a tensor is copied. A checkpoint of another dtype is converted,
and blocks of a GGUF file are unpacked, through buffers of a few MiB.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from io import FileIO

import torch
from torch import Tensor, nn

from shardnet.errors import DamagedCheckpoint, DoesNotFit
from shardnet.loader.gguf.reading import TORCH_TYPES, Read, read_floats
from shardnet.loader.pieces import PART_MARK
from shardnet.loader.places import TensorPlace
from shardnet.loader.stored import require_readable
from shardnet.loader.stretches import Ahead, Stretch
from shardnet.process.compute import is_out_of_memory
from shardnet.process.huge_pages import ask_for_huge_pages
from shardnet.quantised.schemes import joint_format

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
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece[0])
        self._open: dict[str, FileIO] = {}
        self._buffer: Tensor | None = None
        self.ahead = Ahead()
        """Whoever has it read reads nothing else meanwhile."""

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.ahead.close()
        for file in self._open.values():
            file.close()

    def read(self, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Tensors by name, one behind the other in memory."""
        sizes = [shape.numel() for shape in shapes.values()]
        memory = torch.empty(sum(sizes), dtype=self.dtype)
        ask_for_huge_pages(memory.data_ptr(), memory.nbytes)
        for name, part in zip(shapes, memory.split(sizes), strict=True):
            self._read_pieces(name, part)
        parts = self._moved(memory).split(sizes)
        return {
            name: nn.Parameter(part.view(shape), requires_grad=False)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }

    def stored(self, name: str) -> str:
        """The format that a tensor has in its file; '' where none was named for it. See `joint_format`."""
        return joint_format({place.dtype for _, place in self._pieces[name]})

    def stretches(self, name: str, shape: torch.Size, first_element: int = 0) -> list[Stretch]:
        """Where the rows of a matrix lie, in order.

        Args:
            first_element: where it begins in the tensor of that name, which may hold several.

        Raises:
            DamagedCheckpoint: what was named does not fill it, row by row.
        """
        [width] = shape[1:]
        found, end = [], first_element
        for first, place in self._within(name, first_element, shape.numel()):
            start, stop = max(first, first_element), min(first + math.prod(place.shape), first_element + shape.numel())
            if start != end or place.shape[-1:] != (width,) or (start - first) % width or (stop - start) % width:
                break
            rows = place._replace(shape=(math.prod(place.shape[:-1]), width))
            if (stop - start) // width < rows.shape[0]:
                rows = rows.rows((start - first) // width, (stop - start) // width)
            stored = require_readable(name, place.dtype)
            if stored.num_bytes(place.shape) != place.num_bytes or (stored.heads and len(place.shape) > 2):
                break  # what lies in turns would be experts, and not the rows of one
            found.append(Stretch(rows, stored))
            end = stop
        if end != first_element + shape.numel():
            raise _unlike(name, shape.numel(), end - first_element)
        return found

    def read_from(self, name: str, place: TensorPlace) -> Read:
        """Reads a tensor's bytes, from a place on."""
        file = self._file(name, place.file)
        file.seek(place.offset)
        return partial(self._read_into, file, name)

    def _within(self, name: str, first_element: int, num_elements: int) -> Iterator[tuple[int, TensorPlace]]:
        """The pieces that hold some of these elements."""
        pieces = self._pieces[name]
        begin = max(bisect_right(pieces, first_element, key=lambda piece: piece[0]) - 1, 0)
        for first, place in pieces[begin:]:
            if first >= first_element + num_elements:
                return
            yield first, place

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

    def key(
        self, name: str, first_element: int = 0, num_elements: int | None = None
    ) -> tuple[torch.dtype, str, tuple[tuple[int, str], ...]]:
        """Of a tensor, or of some of its elements: wherever the pieces lie, the same roots make the same tensor."""
        pieces = self._pieces[name]
        if num_elements is not None:
            pieces = list(self._within(name, first_element, num_elements))
        assert all(place.root for _, place in pieces), "the checkpoint was not looked at as a whole"
        return self.dtype, name, tuple((first, place.root) for first, place in pieces)

    def _read_pieces(self, name: str, flat: Tensor) -> None:
        self._require_whole(name, len(flat))
        for first_element, place in self._pieces[name]:
            self._read_place(name, place, flat[first_element : first_element + math.prod(place.shape)])

    def _read_place(self, name: str, place: TensorPlace, target: Tensor) -> None:
        stored = require_readable(name, place.dtype)
        read = self.read_from(name, place)
        if not stored.is_plain:
            read_floats(read, stored, place.shape, target)
        elif TORCH_TYPES[stored.kind] == target.dtype:
            read(target)
        else:
            self._convert_into(read, target, TORCH_TYPES[stored.kind])

    def _require_whole(self, name: str, num_elements: int) -> None:
        """Memory that no piece fills would pass for weights: who named the pieces may know another layout than ours."""
        end = 0
        for first_element, place in self._pieces[name]:
            if first_element != end:
                break
            end += math.prod(place.shape)
        if end != num_elements:
            raise _unlike(name, num_elements, end)

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

    def _convert_into(self, read: Read, target: Tensor, dtype: torch.dtype) -> None:
        """Fill a flat tensor from a file of another dtype, a few MiB at a time."""
        if self._buffer is None:
            self._buffer = torch.empty(CONVERSION_BYTES, dtype=torch.uint8)
        step = CONVERSION_BYTES // dtype.itemsize
        for first in range(0, len(target), step):
            part = target[first : first + step]
            source = self._buffer[: len(part) * dtype.itemsize].view(dtype)
            read(source)
            part.copy_(source)


def _unlike(name: str, num_elements: int, num_filled: int) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"The tensor {name} has {num_elements} numbers and what was named for it fills {num_filled} of them in order. "
        "Install the same versions of shardnet and transformers on all devices."
    )
