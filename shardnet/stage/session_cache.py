"""One session's keys and values, and what else is kept of its tokens: rows in stretches of memory that sessions share.

Shapes: K key-value heads, t new tokens, n tokens in all, d head dimension, W numbers that are kept of a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    """One session's keys and values. What a shard sees of it is `models.kv.SessionKV`.

    Attributes:
        runs: where its tokens lie, and what is kept of them.
        elsewhere: where the keys and values of some blocks lie instead: blocks of two stages that have become one.
    """

    __slots__ = ("capacity", "elsewhere", "length", "runs")

    def __init__(self, run: Run) -> None:
        self.length = 0
        self.runs = [run]
        self.elsewhere: dict[int, list[Run]] = {}
        self.capacity = run.num_rows

    @property
    def place(self) -> Place | None:
        """See `SessionKV.place`."""
        return Place(*self.runs[0][:2]) if len(self.runs) == 1 and not self.elsewhere else None

    def all_runs(self) -> list[Run]:
        """Each once."""
        found = [run for runs in (self.runs, *self.elsewhere.values()) for run in runs]
        return list({(id(run.extent), run.first_row): run for run in found}.values())

    def join(self, other: SessionCache, own_layers: Iterable[int], *, is_kept_here: bool) -> list[Run]:
        """Have what another stage has of the session, too: as many tokens as both have. Returns as `leave`.

        Args:
            own_layers: the blocks of this stage.
            is_kept_here: the other one has nothing that takes rows.
        """
        before = self.all_runs() + other.all_runs()
        if not is_kept_here:
            own = {layer: self.elsewhere.get(layer, self.runs) for layer in own_layers}
            self.runs, self.elsewhere = other.runs, own | other.elsewhere
        self.length = min(self.length, other.length)
        return self._not_used_of(before)

    def leave(self, layers: Iterable[int]) -> list[Run]:
        """Have these blocks no more; returns the rows in which nothing of the session is left."""
        before = self.all_runs()
        for layer in layers:
            self.elsewhere.pop(layer, None)
        return self._not_used_of(before)

    def cut(self, num_rows: int) -> list[Run]:
        """Have the first so many rows alone, of one whose tokens lie in one place. Returns as `leave`."""
        run, rest = self.runs[0], self.capacity - num_rows
        self.runs = [Run(run.extent, run.first_row, num_rows)]
        self.capacity, self.length = num_rows, min(self.length, num_rows)
        return [Run(run.extent, run.first_row + num_rows, rest)] if rest else []

    def begin_like(self, other: SessionCache, num_tokens: int, layers: Iterable[int]) -> None:
        """Have copies of another one's first tokens, as the first of one that has none."""
        for layer in layers:
            self._write(self.runs_of(layer), layer, 0, *other.read(layer, num_tokens))
        self.keep(0, other.kept(0, num_tokens))
        self.length = num_tokens

    def grow(self, run: Run) -> None:
        """Have these rows, too, for all blocks."""
        last = self.runs[-1]
        if not self.elsewhere and run[:2] == (last.extent, last.first_row + last.num_rows):
            self.runs[-1] = Run(last.extent, last.first_row, last.num_rows + run.num_rows)
        else:
            for runs in {id(runs): runs for runs in (self.runs, *self.elsewhere.values())}.values():
                runs.append(run)
        self.capacity += run.num_rows

    def _not_used_of(self, runs: Iterable[Run]) -> list[Run]:
        used = self.all_runs()
        return [run for run in runs if run not in used]

    def check_room(self, num_tokens: int) -> None:
        """See `SessionKV.check_room`."""
        end = self.length + num_tokens
        if end > self.capacity:
            raise KVMemorySpent(
                f"The session has room for {counted(self.capacity, 'tokens')} and this step would make it {end}. "
                "Ask for fewer new tokens."
            )

    def append(self, layer: int, key: Tensor, value: Tensor) -> BlockTensors:
        """See `SessionKV.append`.

        Raises:
            KVMemorySpent: more tokens than the session reserved.
        """
        self.check_room(key.shape[1])
        length, end = self.length, self.length + key.shape[1]
        runs = self.elsewhere.get(layer, self.runs)
        if len(runs) > 1:
            self._write(runs, layer, length, key, value)
            return self.read(layer, end)
        extent, first_row, _ = runs[0]
        keys, values = extent.keys[layer], extent.values[layer]
        keys.narrow(0, first_row + length, end - length).copy_(key.transpose(0, 1))
        values.narrow(0, first_row + length, end - length).copy_(value.transpose(0, 1))
        return keys.narrow(0, first_row, end).transpose(0, 1), values.narrow(0, first_row, end).transpose(0, 1)

    def read(self, layer: int, length: int) -> BlockTensors:
        """The first `length` tokens of a block: views, where they lie in one place."""
        parts = [
            (run.extent.keys[layer][rows].transpose(0, 1), run.extent.values[layer][rows].transpose(0, 1))
            for run, _, rows in _parts(self.elsewhere.get(layer, self.runs), 0, length)
        ]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([keys for keys, _ in parts], 1), torch.cat([values for _, values in parts], 1)

    def keep(self, first: int, rows: Tensor) -> None:
        """Write what is kept of the tokens from `first` on beside keys and values: rows [t, W]."""
        for run, start, places in _parts(self.runs, first, first + len(rows)):
            run.extent.kept[places] = rows[start - first : start - first + places.stop - places.start]

    def kept(self, first: int, end: int) -> Tensor:
        """A copy of what is kept of the tokens from `first` to `end`, which are there: [end - first, W]."""
        return torch.cat([run.extent.kept[places] for run, _, places in _parts(self.runs, first, end)])

    def runs_of(self, layer: int | None) -> list[Run]:
        """Where a block's tokens lie; None: what is kept of them."""
        return self.runs if layer is None else self.elsewhere.get(layer, self.runs)

    def places(self, layer: int | None, first: int, end: int) -> Iterator[tuple[Extent, slice]]:
        """The same for the tokens from `first` to `end`, one stretch after the other."""
        for run, _, rows in _parts(self.runs_of(layer), first, end):
            yield run.extent, rows

    def _write(self, runs: Sequence[Run], layer: int, first: int, key: Tensor, value: Tensor) -> None:
        """Tokens from `first` on."""
        for run, start, rows in _parts(runs, first, first + key.shape[1]):
            places = slice(start - first, start - first + rows.stop - rows.start)
            run.extent.keys[layer][rows] = key[:, places].transpose(0, 1)
            run.extent.values[layer][rows] = value[:, places].transpose(0, 1)


def _parts(runs: Sequence[Run], first: int, end: int) -> Iterator[tuple[Run, int, slice]]:
    """Where the tokens from `first` to `end` lie: run, first token in it, its rows in the extent."""
    start = 0
    for run in runs:
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
