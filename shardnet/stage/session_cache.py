"""One session's keys and values, and what else is kept of its tokens: rows in stretches of memory that sessions share.

Shapes: K key-value heads, t new tokens, n tokens in all, d head dimension, W numbers that are kept of a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.errors import KVMemorySpent
from shardnet.foreign.quoting import counted
from shardnet.models.kv import Place
from shardnet.stage.extent import Extent

BlockTensors = tuple[Tensor, Tensor]
"""Keys [K, n, d] and values [K, n, d'] of one block."""


class Run(NamedTuple):
    """Rows that one session has in an extent, one behind the other."""

    extent: Extent
    first_row: int
    num_rows: int


class SessionCache:
    """One session's keys and values. What a shard sees of it is `models.kv.SessionKV`."""

    __slots__ = ("capacity", "length", "runs")

    def __init__(self, run: Run) -> None:
        self.length = 0
        self.runs = [run]
        self.capacity = run.num_rows

    @property
    def place(self) -> Place | None:
        """See `SessionKV.place`."""
        return Place(*self.runs[0][:2]) if len(self.runs) == 1 else None

    def append(self, layer: int, key: Tensor, value: Tensor) -> BlockTensors:
        """See `SessionKV.append`.

        Raises:
            KVMemorySpent: more tokens than the session reserved.
        """
        length, end = self.length, self.length + key.shape[1]
        if end > self.capacity:
            raise KVMemorySpent(
                f"The session has room for {counted(self.capacity, 'tokens')} and this step would make it {end}. "
                "Ask for fewer new tokens."
            )
        if len(self.runs) > 1:
            self._write(layer, length, key, value)
            return self.read(layer, end)
        extent, first_row, _ = self.runs[0]
        keys, values = extent.keys[layer], extent.values[layer]
        keys.narrow(0, first_row + length, end - length).copy_(key.transpose(0, 1))
        values.narrow(0, first_row + length, end - length).copy_(value.transpose(0, 1))
        return keys.narrow(0, first_row, end).transpose(0, 1), values.narrow(0, first_row, end).transpose(0, 1)

    def read(self, layer: int, length: int) -> BlockTensors:
        """The first `length` tokens of a block: views, where they lie in one place."""
        parts = [
            (run.extent.keys[layer][rows].transpose(0, 1), run.extent.values[layer][rows].transpose(0, 1))
            for run, _, rows in self._parts(0, length)
        ]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([keys for keys, _ in parts], 1), torch.cat([values for _, values in parts], 1)

    def keep(self, first: int, rows: Tensor) -> None:
        """Write what is kept of the tokens from `first` on beside keys and values: rows [t, W]."""
        for run, start, places in self._parts(first, first + len(rows)):
            run.extent.kept[places] = rows[start - first : start - first + places.stop - places.start]

    def kept(self, first: int, end: int) -> Tensor:
        """A copy of what is kept of the tokens from `first` to `end`, which are there: [end - first, W]."""
        return torch.cat([run.extent.kept[places] for run, _, places in self._parts(first, end)])

    def _write(self, layer: int, first: int, key: Tensor, value: Tensor) -> None:
        """Tokens from `first` on."""
        for run, start, rows in self._parts(first, first + key.shape[1]):
            places = slice(start - first, start - first + rows.stop - rows.start)
            run.extent.keys[layer][rows] = key[:, places].transpose(0, 1)
            run.extent.values[layer][rows] = value[:, places].transpose(0, 1)

    def _parts(self, first: int, end: int) -> Iterator[tuple[Run, int, slice]]:
        """Where the tokens from `first` to `end` lie: run, first token in it, its rows in the extent."""
        start = 0
        for run in self.runs:
            begin, stop = max(first, start), min(end, start + run.num_rows)
            if begin < stop or first == end == start == 0:
                shift = run.first_row - start
                yield run, begin, slice(begin + shift, stop + shift)
            start += run.num_rows


def keep_together(sessions: Sequence[SessionCache], firsts: Sequence[int], sizes: Sequence[int], rows: Tensor) -> None:
    """`SessionCache.keep` for all sessions of a step, by one operation where their rows lie in one extent.

    Args:
        firsts: the first token of each, and in `sizes` how many it has in rows [T, W].
    """
    extent = sessions[0].runs[0].extent
    targets: list[int] = []
    for session, first, size in zip(sessions, firsts, sizes, strict=True):
        run = session.runs[0]
        if run.extent is not extent or len(session.runs) > 1:
            _keep_each(sessions, firsts, sizes, rows)
            return
        begin = run.first_row + first
        targets.extend(range(begin, begin + size))
    if len(sessions) == 1:
        extent.kept.narrow(0, targets[0], len(targets)).copy_(rows)
    else:
        extent.kept.index_copy_(0, torch.tensor(targets), rows)


def _keep_each(sessions: Sequence[SessionCache], firsts: Sequence[int], sizes: Sequence[int], rows: Tensor) -> None:
    for session, first, own in zip(sessions, firsts, rows.split(list(sizes)), strict=True):
        session.keep(first, own)
