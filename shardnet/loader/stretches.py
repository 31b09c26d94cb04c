"""Rows of a matrix as they lie in a file, some at a time: as the file has them, as codes and scales, or as floats.

Shapes: N outputs, K inputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.loader.gguf.blocks import code_bits, group_of
from shardnet.loader.gguf.reading import Read, read_floats, read_grouped
from shardnet.loader.places import TensorPlace
from shardnet.loader.stored import BLOCK_TYPES, SYMMETRIC_TYPES, Stored
from shardnet.quantised.grouped import Grouped
from shardnet.quantised.schemes import Form

RAW_BYTES = 1 << 20
"""About so much of a file is read at a time and laid out from there: it stays in a processor's own cache."""

ReadFrom = Callable[[TensorPlace], Read]
"""Of a place in a file: what reads its next bytes."""


class Stretch(NamedTuple):
    """Rows of a matrix that lie together."""

    place: TensorPlace
    """Of the shape [rows, K]."""
    stored: Stored

    @property
    def num_rows(self) -> int:
        return self.place.shape[0]

    @property
    def row_bytes(self) -> int:
        return self.place.num_bytes // self.num_rows

    @property
    def head_rows(self) -> int:
        """So many of a head lie in turns; 0: all rows are in order."""
        return self.num_rows // self.stored.heads if self.stored.heads else 0

    @property
    def as_it_lies(self) -> Stretch:
        """Of one whose rows are the model's columns: the file's own rows."""
        assert self.stored.is_turned, self.stored
        return Stretch(self.place._replace(shape=self.place.shape[::-1]), self.stored._replace(is_turned=False))

    def comes_in(self, multiple: int) -> bool:
        """Whether it has such a multiple of rows, and its heads, too."""
        return self.num_rows % multiple == 0 and self.head_rows % multiple == 0

    def parts(self, step: int) -> Iterator[Stretch]:
        """About so many rows at a time; where those of a head lie in turns, whole heads; all where they are columns."""
        if self.stored.is_turned:
            step = self.num_rows
        head_rows = self.head_rows or 1
        step = max(step // head_rows, 1) * head_rows
        for first in range(0, self.num_rows, step):
            place = self.place.rows(first, min(step, self.num_rows - first))
            heads = place.shape[0] // head_rows if self.stored.heads else 0
            yield Stretch(place, self.stored._replace(heads=heads))

    @property
    def order(self) -> Tensor | None:
        """Which of the rows in the file each row of the matrix is, int64 [rows]; None: they are in order."""
        if not self.stored.heads:
            return None
        half = self.head_rows // 2
        stored = torch.arange(self.num_rows).view(self.stored.heads, half, 2)
        return stored.transpose(1, 2).reshape(-1)


class Ahead:
    """Reads the next rows on a thread of its own while those before are worked on.

    Its memory is taken once: what came and went between weights would leave holes among them.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "reading")
        self._memories = [torch.empty(0, dtype=torch.uint8) for _ in range(2)]

    def close(self) -> None:
        """Wait for what is being read."""
        self._thread.shutdown()

    def raw_rows(
        self, stretches: Iterable[tuple[Stretch, ReadFrom]], multiple: int
    ) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        """(kind, uint8 [rows, bytes of a row], `Stretch.order` of these), the rows good until the next are asked for.

        Args:
            multiple: of it there are as many rows, but for the last of a stretch, where they are in order.
        """
        waiting: deque[tuple[Stretch, Future[Tensor]]] = deque()
        for stretch, read_from in stretches:
            for part in stretch.parts(max(RAW_BYTES // stretch.row_bytes // multiple, 1) * multiple):
                waiting.append((part, self._thread.submit(self._read, part, read_from)))
                if len(waiting) == 2:
                    yield _come(*waiting.popleft())
        while waiting:
            yield _come(*waiting.popleft())

    def _read(self, part: Stretch, read_from: ReadFrom) -> Tensor:
        memory, other = self._memories
        if len(memory) < part.place.num_bytes:
            memory = torch.empty(max(part.place.num_bytes, RAW_BYTES), dtype=torch.uint8)
        self._memories = [other, memory]
        rows = memory[: part.place.num_bytes]
        read_from(part.place)(rows)
        return rows


def _come(part: Stretch, rows: Future[Tensor]) -> tuple[str, Tensor, Tensor | None]:
    return part.stored.kind, rows.result().view(part.num_rows, -1), part.order


def codes(stretch: Stretch, read_from: ReadFrom, form: Form, step: int) -> Iterator[Grouped] | None:
    """As the file has them; None where that is not in this form."""
    kind = stretch.stored.kind
    if kind not in BLOCK_TYPES or stretch.stored.minus_one or stretch.stored.is_turned:
        return None
    if form.is_symmetric and kind not in SYMMETRIC_TYPES:
        return None
    if (code_bits(kind), group_of(kind)) != (form.bits, form.group_of(stretch.place.shape[1])):
        return None
    return (read_grouped(read_from(part.place), part.stored, part.place.shape) for part in stretch.parts(step))


def floats(stretch: Stretch, read_from: ReadFrom, step: int) -> Iterator[Tensor]:
    """float32 [rows, K], on the CPU."""
    for part in stretch.parts(step):
        values = torch.empty(part.place.shape)
        read_floats(read_from(part.place), part.stored, part.place.shape, values.view(-1))
        yield values
