"""The rows of one stage's sessions: taken out of extents that sessions share, and from the budgets that they count for.

Those of sessions that were closed lately may stay, for sessions that begin with the same tokens: they are spare, and go
as soon as somebody needs memory, the least recently used first. No lock of its own: whoever calls holds the budget's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import torch

from shardnet.errors import KVMemorySpent
from shardnet.models.kv import BlockKV
from shardnet.process.compute import CPU, has_own_memory
from shardnet.stage.budget import MemoryBudget
from shardnet.stage.extent import Extent, Kept
from shardnet.stage.session_cache import Run, SessionCache

LEAST_ROWS = 4096
"""Of an extent: sessions in one extent can be worked on together, and rows that nobody writes take no memory."""
SPARE_PART = 8
"""On an accelerator they do: an extent has so small a part more than it must have of what is not taken yet."""
MOST_RECENT = 64
"""Sessions whose rows stay, wherever there is memory."""


class Recent(NamedTuple):
    """A session that was closed: it has as many rows as tokens."""

    kv: SessionCache
    came: array[int]
    """At the ring's first stage: the ids of these."""
    used: int
    """When it was closed, by the budget's ticks."""


class Rows:
    """
    Args:
        layout: what each block caches.
        budget: of keys and values, and of what is kept beside them where that is in the same memory.
        kept: what else is kept of each token, on the CPU.
        device: where keys and values are.
        beside: the budget of what is kept, where keys and values are on an accelerator with memory of its own.

    Attributes:
        extents: in which rows are taken.
    """

    def __init__(
        self,
        layout: Sequence[BlockKV],
        dtype: torch.dtype,
        budget: MemoryBudget,
        kept: Kept,
        device: torch.device,
        beside: MemoryBudget,
    ) -> None:
        self.layout = tuple(layout)
        self.dtype = dtype
        self.kept = kept
        self.device = device
        self.budget = budget
        self.extents: list[Extent] = []
        self._beside = beside
        self._recent: dict[int, Recent] = {}
        """The one that was used longest ago first."""
        budget.register(self)
        beside.register(self)

    @property
    def budget_beside(self) -> MemoryBudget:
        """Of what is kept on the CPU."""
        return self._beside if has_own_memory(self.device.type) else self.budget

    @property
    def bytes_per_token(self) -> int:
        """Of the budget."""
        return self._here(self.kept) + sum(self._bytes_of(block) for block in self.layout)

    @property
    def bytes_beside(self) -> int:
        """Of the other one."""
        return self._there(self.kept)

    @property
    def touched_bytes_per_token(self) -> int:
        """Of the CPU's memory, which is taken when it is written to."""
        return self.bytes_per_token if self.device.type == CPU else self._here(self.kept)

    def take(self, what: str, num_rows: int, behind: Run | None = None) -> Run:
        """Rows that nobody else has: just behind a run, in any extent, or in a new one.

        Raises:
            KVMemorySpent: a budget has less, or the system has.
        """
        with self._taken(what, num_rows * self.bytes_per_token, num_rows * self.bytes_beside):
            while True:
                try:
                    return self._place(num_rows, behind)
                except KVMemorySpent:
                    if not self._recent:
                        raise
                    self.give_up()

    def extend(self, session: SessionCache, num_rows: int) -> bool:
        """Give a session so many rows just behind its own; False where others have them, or a budget has less."""
        run = session.runs[-1]
        try:
            with self._taken("", num_rows * self.bytes_per_token, num_rows * self.bytes_beside):
                if not run.extent.take_at(run.first_row + run.num_rows, num_rows):
                    raise KVMemorySpent("other sessions have these rows.")
        except KVMemorySpent:
            return False
        session.grow(Run(run.extent, run.first_row + run.num_rows, num_rows))
        return True

    def give_back(self, runs: Iterable[Run]) -> None:
        """Free rows. What they had reserved is released apart from this."""
        for run in runs:
            run.extent.give_back(run.first_row, run.num_rows)
        self.extents = [extent for extent in self.extents if not extent.is_unused]

    def release(self, num_rows: int) -> None:
        """Others may reserve what these had."""
        self.budget.release(num_rows * self.bytes_per_token)
        self._beside.release(num_rows * self.bytes_beside)

    # ---- what stays of closed sessions ----

    @property
    def recent(self) -> dict[int, Recent]:
        """By the numbers of the sessions, the one that was used longest ago first."""
        return dict(self._recent)

    def keep(self, number: int, session: SessionCache, came: array[int]) -> bool:
        """Let the rows of a session stay, which has released them; False where there is no memory for them."""
        num_rows = session.capacity
        try:
            with self._taken("", num_rows * self.bytes_per_token, num_rows * self.bytes_beside):
                pass
        except KVMemorySpent:
            return False
        self._spare(num_rows)
        self._recent[number] = Recent(session, came, self.budget.tick())
        while len(self._recent) > MOST_RECENT:
            self.give_up()
        return True

    def take_recent(self, number: int) -> Recent | None:
        """What has stayed of a session: its rows are reserved, and the caller's from now on."""
        recent = self._recent.pop(number, None)
        if recent is not None:
            self._spare(-recent.kv.capacity)
        return recent

    def least_recent(self) -> int | None:
        """See `Spares`."""
        return next((recent.used for recent in self._recent.values()), None)

    def give_up(self) -> None:
        """See `Spares`."""
        recent = self.take_recent(next(iter(self._recent)))
        assert recent is not None, "there is one"
        self.release(recent.kv.capacity)
        self.give_back(recent.kv.all_runs())

    def give_all_up(self) -> None:
        while self._recent:
            self.give_up()

    def _spare(self, num_rows: int) -> None:
        """Others may have what so many rows have reserved; below zero: no more."""
        self.budget.spare(num_rows * self.bytes_per_token)
        self._beside.spare(num_rows * self.bytes_beside)

    # ---- other blocks ----

    def become(self, layout: Sequence[BlockKV], kept: Kept, num_rows: int, *, forgets: bool) -> list[BlockKV]:
        """Have these blocks alone, and this beside them; returns the blocks that are gone.

        Args:
            num_rows: so many are taken.
            forgets: what was kept beside is forgotten.

        Raises:
            KVMemorySpent: what is to be kept takes more than what is given up, and the budget has less.
        """
        layers = {block.layer for block in layout}
        gone = [block for block in self.layout if block.layer not in layers]
        more = self._here(kept) - self._here(self.kept) - sum(map(self._bytes_of, gone))
        more_beside = self._there(kept) - self._there(self.kept)
        what = "What is sent of the open sessions"
        with self._taken(what, max(more, 0) * num_rows, max(more_beside, 0) * num_rows):
            for extent in self.extents if forgets else ():
                extent.keep_as(kept)
        self.budget.release(max(-more, 0) * num_rows)
        self._beside.release(max(-more_beside, 0) * num_rows)
        self.layout, self.kept = tuple(layout), kept
        for block in gone:
            for extent in self.extents:
                extent.remove(block.layer)
        return gone

    def join(self, other: Rows, kept: Kept, num_rows: int) -> None:
        """Have the extents of another one, too, and its blocks, as many rows being taken in both. What was kept here
        beside keys and values is forgotten.
        """
        needed_before = num_rows * (self.bytes_per_token + other.bytes_per_token)
        beside_before = num_rows * (self.bytes_beside + other.bytes_beside)
        for extent in self.extents:
            extent.keep_as(kept._replace(width=0))
        self.extents += other.extents
        other.extents = []
        self.layout, self.kept = (*self.layout, *other.layout), kept
        self.budget.release(needed_before - num_rows * self.bytes_per_token)
        self._beside.release(beside_before - num_rows * self.bytes_beside)

    # ---- places ----

    def _place(self, num_rows: int, behind: Run | None) -> Run:
        extents = [extent for extent in self.extents if extent.serves(self.layout, self.kept)]
        if behind is not None and behind.extent in extents:
            end = behind.first_row + behind.num_rows
            if behind.extent.take_at(end, num_rows):
                return Run(behind.extent, end, num_rows)
        for extent in extents:
            first_row = extent.take(num_rows)
            if first_row is not None:
                return Run(extent, first_row, num_rows)
        extent = self._new_extent(num_rows)
        self.extents.append(extent)
        first_row = extent.take(num_rows)
        assert first_row is not None, (num_rows, extent.num_rows)
        return Run(extent, first_row, num_rows)

    def _new_extent(self, num_rows: int) -> Extent:
        """As large as all others together: there are few, however many sessions come. No larger than it must be, where
        the system does not give so many addresses (`ulimit -v`).
        """
        size = max(num_rows, LEAST_ROWS, sum(extent.num_rows for extent in self.extents))
        if self.device.type != "cpu" and self.budget.is_limited:
            size = min(size, num_rows + self._spare_rows() // SPARE_PART)
        with suppress(KVMemorySpent):
            return Extent(self.layout, self.dtype, size, self.kept, self.device)
        return Extent(self.layout, self.dtype, num_rows, self.kept, self.device)  # what the first took is free again

    def _spare_rows(self) -> int:
        """How many rows more may be taken on an accelerator, where they take memory at once, beside what is reserved.

        Raises:
            KVMemorySpent: what is free is taken already, in pieces that are too small.
        """
        free_bytes = self.budget.room().free_bytes - self.budget.spare_bytes
        spare_bytes = free_bytes - sum(extent.free_bytes for extent in self.extents)
        if spare_bytes < 0:
            raise KVMemorySpent(
                f"{self.device} has so much memory for KV cache, but in pieces between other sessions. Wait for other "
                "sessions to end."
            )
        return spare_bytes // max(self.bytes_per_token, 1)

    # ---- bytes ----

    @contextmanager
    def _taken(self, what: str, num_bytes: int, bytes_beside: int) -> Iterator[None]:
        """Take it from the budgets for what the block does, and give it back where that finds no addresses.

        Raises:
            KVMemorySpent: a budget has less.
        """
        with (
            _taken_from(self.budget, num_bytes, f"{what} needs {_mib(num_bytes)} MiB of KV cache here"),
            _taken_from(self._beside, bytes_beside, f"{what} needs {_mib(bytes_beside)} MiB beside the accelerator"),
        ):
            yield

    def _bytes_of(self, block: BlockKV) -> int:
        return self.dtype.itemsize * block.elements_per_token

    def _here(self, kept: Kept) -> int:
        """Of what is kept of each token, those that take of the memory in which keys and values are."""
        return 0 if has_own_memory(self.device.type) else kept.bytes_per_token

    def _there(self, kept: Kept) -> int:
        return kept.bytes_per_token - self._here(kept)


@contextmanager
def _taken_from(budget: MemoryBudget, num_bytes: int, need: str) -> Iterator[None]:
    if not budget.reserve(num_bytes):
        room = budget.room()
        raise KVMemorySpent(
            f"{need} and {_mib(room.free_bytes)} of {_mib(room.limit_bytes)} MiB are free. "
            "Wait for other sessions to end, shorten the prompt or the answer, or give the device more memory."
        )
    try:
        yield
    except KVMemorySpent:
        budget.release(num_bytes)
        raise


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f}"
