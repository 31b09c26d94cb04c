"""Matrices of few bits, filled from a checkpoint: some rows at a time become floats, or none where the kernel or the
form allow it.

What a device holds already is not read again, as with other weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from shardnet.errors import DamagedCheckpoint
from shardnet.loader.gguf.reading import Read
from shardnet.loader.places import TensorPlace
from shardnet.loader.stored import Stored
from shardnet.loader.stretches import Ahead, Stretch, codes, floats
from shardnet.models.packings import Packing, Source
from shardnet.quantised.grouped import Grouped
from shardnet.quantised.kernels.kernel import LaysOutFiles
from shardnet.quantised.rounding import rounded
from shardnet.quantised.schemes import Form

_Found = tuple[Source, list[Stretch]]
"""A tensor, and where its rows lie."""

STEP_OUTPUTS = 1024
"""So many at a time become numbers and are laid out: a multiple of what kernels lay out at once."""


class ReadsMatrices(Protocol):
    """Where the numbers come from."""

    @property
    def ahead(self) -> Ahead:
        """Reads while others compute."""

    def key(
        self, name: str, first_element: int = 0, num_elements: int | None = None
    ) -> tuple[Any, str, tuple[tuple[int, str], ...]]:
        """What a tensor, or some of its elements, is made of."""

    def stretches(self, name: str, shape: torch.Size, first_element: int = 0) -> list[Stretch]:
        """Where the rows of a matrix lie, in order; it begins at an element of the tensor of that name."""

    def read_from(self, name: str, place: TensorPlace) -> Read:
        """Reads a tensor's bytes, from a place on."""


def look_up(packing: Packing, reader: ReadsMatrices, weights: Mapping[Any, Tensor]) -> bool:
    """Take the matrix from what the device holds; False where it does not."""
    held = packing.held
    wanted = held.kernel.memory(held.matrix.shape)
    kept = {name: tensor for name in wanted if (tensor := weights.get(name_of(packing, reader, name))) is not None}
    if len(kept) < len(wanted):
        return False
    held.matrix.tensors.update(kept)
    return True


def fill(packing: Packing, reader: ReadsMatrices, weights: MutableMapping[Any, Tensor]) -> None:
    """Read the matrix; other shards on this device may use it.

    Raises:
        DamagedCheckpoint: it has numbers that are not finite, or is not whole.
    """
    held = packing.held
    held.begin()
    found = [(each, reader.stretches(each.name, each.shape, each.first_element)) for each in packing.sources]
    try:
        if not _fill_as_stored(packing, found, reader):
            _fill_by_numbers(packing, found, reader)
    except ValueError as cause:
        raise DamagedCheckpoint(
            f"The tensor {packing.sources[0].name} has numbers that are not finite. Download the model again."
        ) from cause
    weights.update((name_of(packing, reader, name), tensor) for name, tensor in held.matrix.tensors.items())


def _fill_as_stored(packing: Packing, found: Sequence[_Found], reader: ReadsMatrices) -> bool:
    """From the file's own rows; False, and nothing is done, where the kernel or the file does not allow it."""
    kernel, matrix = packing.held.kernel, packing.held.matrix
    is_other = matrix.shape.form.is_symmetric or any(source.is_transposed for source, _ in found)
    if not isinstance(kernel, LaysOutFiles) or is_other:
        return False
    stretches = [(source.name, stretch) for source, own in found for stretch in own]
    are_known = all(each.stored.kind in kernel.formats and not _is_otherwise(each.stored) for _, each in stretches)
    *others, (_, last) = stretches
    are_even = all(each.comes_in(kernel.row_step) for _, each in others) and not last.head_rows % kernel.row_step
    if not are_known or not are_even:
        return False
    first = 0
    places = [(stretch, partial(reader.read_from, name)) for name, stretch in stretches]
    for kind, rows, order in reader.ahead.raw_rows(places, kernel.row_step):
        kernel.fill_as_stored(matrix, first, kind, rows, order)
        first += len(rows)
    return True


def _is_otherwise(stored: Stored) -> bool:
    """Whether what lies in the file are other numbers than the model's, or columns in the place of rows."""
    return stored.minus_one or stored.is_turned


def _fill_by_numbers(packing: Packing, found: Sequence[_Found], reader: ReadsMatrices) -> None:
    held, waiting, first = packing.held, Rows(), 0
    for part in _parts(found, reader, held.matrix.shape.form):
        waiting.add(part)
        while (ready := waiting.take(STEP_OUTPUTS)) is not None:
            held.fill(first, ready)
            first += len(ready.codes)
    rest = waiting.take_all()
    if rest is not None:
        held.fill(first, rest)


class Rows:
    """Outputs that wait until they are as many as are laid out at once: several tensors make a matrix."""

    def __init__(self) -> None:
        self._parts: list[Grouped] = []

    def add(self, part: Grouped) -> None:
        self._parts.append(part)

    def take(self, num_outputs: int) -> Grouped | None:
        """So many of the first; None where there are fewer."""
        if sum(len(part.codes) for part in self._parts) < num_outputs:
            return None
        whole = self.take_all()
        assert whole is not None
        if len(whole.codes) > num_outputs:
            self._parts = [_cut(whole, num_outputs, len(whole.codes))]
        return _cut(whole, 0, num_outputs)

    def take_all(self) -> Grouped | None:
        parts, self._parts = self._parts, []
        if len(parts) < 2:
            return parts[0] if parts else None
        codes, scales, minima = (torch.cat(each) for each in list(zip(*parts, strict=True))[:3])
        return Grouped(codes, scales, minima, parts[0].bits)


def _cut(whole: Grouped, first: int, end: int) -> Grouped:
    return Grouped(whole.codes[first:end], whole.scales[first:end], whole.minima[first:end], whole.bits)


def _parts(found: Sequence[_Found], reader: ReadsMatrices, form: Form) -> Iterator[Grouped]:
    """Some outputs at a time."""
    for source, stretches in found:
        for stretch in stretches:
            read_from = partial(reader.read_from, source.name)
            if source.is_transposed and stretch.stored.is_turned:
                stretch = stretch.as_it_lies
            elif source.is_transposed:
                [weight] = floats(stretch, read_from, stretch.num_rows)
                yield from (rounded(outputs, form) for outputs in weight.t().split(STEP_OUTPUTS))
                continue
            own = codes(stretch, read_from, form, STEP_OUTPUTS)
            yield from own or (rounded(part, form) for part in floats(stretch, read_from, STEP_OUTPUTS))


def name_of(packing: Packing, reader: ReadsMatrices, tensor: str = "") -> tuple[Any, ...]:
    """Of a laid out matrix, or one tensor of it: as other weights, what it is made of; and how it is held."""
    held = packing.held
    pieces = [reader.key(source.name, source.first_element, source.shape.numel()) for source in packing.sources]
    names = " ".join(source.label for source in packing.sources)
    roots = tuple(piece for _, _, parts in pieces for piece in parts)
    return (held.kernel.name, *held.matrix.shape, tensor), names, roots


def num_bytes(packings: Sequence[Packing]) -> int:
    """What they take of memory."""
    return sum(packing.held.num_bytes for packing in packings)
