"""Matrices of few bits, filled from a checkpoint: a matrix at a time becomes floats, or none where its file has it so.

What a device holds already is not read again, as with other weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from shardnet.models.few_bits import Packing, Source
from shardnet.quantised.grouped import Grouped
from shardnet.quantised.rounding import rounded
from shardnet.quantised.schemes import Form

STEP_OUTPUTS = 1024
"""So many at a time are rounded and laid out: a multiple of what kernels lay out at once."""


class ReadsMatrices(Protocol):
    """Where the numbers come from."""

    def key(self, name: str) -> tuple[Any, str, tuple[tuple[int, str], ...]]:
        """What a tensor is made of."""

    def rows_of(self, name: str, shape: torch.Size, step: int) -> Iterator[Tensor]:
        """A matrix in float32, on the CPU, so many rows at a time where they lie so in the file, else all at once."""

    def codes_of(self, name: str, shape: torch.Size, form: Form, step: int) -> Iterator[Grouped] | None:
        """The same as its file has it; None where that is not in this form."""


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
    """Read the matrix; other shards on this device may use it."""
    held = packing.held
    held.begin()
    waiting = Rows()
    first = 0
    for source in packing.sources:
        for part in _codes_of(source, reader, held.matrix.shape.form):
            waiting.add(part)
            while (ready := waiting.take(STEP_OUTPUTS)) is not None:
                held.fill(first, ready)
                first += len(ready.codes)
    rest = waiting.take_all()
    if rest is not None:
        held.fill(first, rest)
    weights.update((name_of(packing, reader, name), tensor) for name, tensor in held.matrix.tensors.items())


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


def _codes_of(source: Source, reader: ReadsMatrices, form: Form) -> Iterator[Grouped]:
    """Some outputs at a time."""
    if source.is_transposed:
        [weight] = reader.rows_of(source.name, source.shape, source.shape[0])
        parts = iter([weight.t()])
    else:
        codes = reader.codes_of(source.name, source.shape, form, STEP_OUTPUTS)
        if codes is not None:
            yield from codes
            return
        parts = reader.rows_of(source.name, source.shape, STEP_OUTPUTS)
    for part in parts:
        for outputs in part.split(STEP_OUTPUTS):
            yield rounded(outputs, form)


def name_of(packing: Packing, reader: ReadsMatrices, tensor: str = "") -> tuple[Any, ...]:
    """Of a laid out matrix, or one tensor of it: as other weights, what it is made of; and how it is held."""
    held = packing.held
    pieces = [reader.key(source.name) for source in packing.sources]
    names = " ".join(source.name for source in packing.sources)
    roots = tuple(piece for _, _, parts in pieces for piece in parts)
    return (held.kernel.name, *held.matrix.shape, tensor), names, roots


def num_bytes(packings: Sequence[Packing]) -> int:
    """What they take of memory."""
    return sum(packing.held.num_bytes for packing in packings)
