"""KV caches of many sessions in one shard: open, crop, grow, export, restore, block by block, under a memory budget.

Each block has its memory for itself, in stretches that sessions share (`stage.extent`): a block that leaves frees its
part, and one operation writes the new tokens of many sessions. Nothing is moved when a session opens, grows or ends,
and nothing when two stages become one: their sessions have blocks in several stretches then.
Memory is reserved when a session opens, and touched only as tokens come: what was not written yet takes no resident
memory. Sessions may be opened and closed by any thread; what reads or writes tokens is for the thread that computes.

Shapes: K key-value heads, n tokens in all, d head dimension.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import torch

from shardnet.errors import BadRequest, KVMemorySpent
from shardnet.foreign.quoting import counted
from shardnet.models.kv import ON_CPU, BlockKV
from shardnet.process.compute import CPU, has_own_memory
from shardnet.stage.budget import MemoryBudget
from shardnet.stage.extent import NOTHING, Extent, Kept
from shardnet.stage.session_cache import BlockTensors, Run, SessionCache

LEAST_ROWS = 4096
"""Of an extent: sessions in one extent can be worked on together, and rows that nobody writes take no memory."""
SPARE_PART = 8
"""On an accelerator they do: an extent has so small a part more than it must have of what is not taken yet."""


class KVCache:
    """The sessions of one shard. A shard without blocks reserves nothing, and still counts its sessions' tokens.

    Args:
        layout: what each block caches (`Shard.kv_layout`).
        budget: what all sessions together may reserve, here and in the other caches of the same budget.
        kept: what else is kept of their tokens, on the CPU: it takes its memory from the same budget, where that is the
            CPU's.
        device: where keys and values are.
        beside: the budget of what is kept, where keys and values are on an accelerator with memory of its own.
    """

    def __init__(
        self,
        layout: Sequence[BlockKV],
        dtype: torch.dtype,
        budget: MemoryBudget | None = None,
        kept: Kept = NOTHING,
        device: torch.device = ON_CPU,
        beside: MemoryBudget | None = None,
    ) -> None:
        self.layout = tuple(layout)
        self.dtype = dtype
        self.kept = kept
        self.device = device
        self._budget = MemoryBudget() if budget is None else budget
        self._beside = MemoryBudget() if beside is None else beside
        self._sessions: dict[int, SessionCache] = {}
        self._extents: list[Extent] = []
        self._lock = threading.RLock()

    def __contains__(self, session_id: int) -> bool:
        return session_id in self._sessions

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def bytes_per_token(self) -> int:
        return self._kept_bytes(self.kept) + sum(self._bytes_of(block) for block in self.layout)

    @property
    def reserved_bytes(self) -> int:
        """What the open sessions may come to use."""
        return self.bytes_per_token * self._num_reserved_rows()

    @property
    def untouched_bytes(self) -> int:
        """Of what is reserved, that which holds no tokens yet: the system counts it as free. Not an accelerator's."""
        is_on_cpu = self.device.type == CPU
        return (self.bytes_per_token if is_on_cpu else self._kept_bytes(self.kept)) * self._num_untouched_rows()

    @property
    def untouched_bytes_beside(self) -> int:
        """The same of what is taken from the other budget."""
        return self._bytes_beside(self.kept) * self._num_untouched_rows()

    def missing_bytes(self, num_tokens: int) -> int:
        """How much less is free than so many tokens take."""
        room = self._budget.room()
        return max(num_tokens * self.bytes_per_token - room.free_bytes, 0) if self._budget.is_limited else 0

    def shares_budget_with(self, other: KVCache) -> bool:
        """Whether what is freed here is free there."""
        return self._budget is other._budget

    def open(self, session_id: int, capacity_tokens: int) -> SessionCache:
        """Reserve room for a new session.

        Raises:
            BadRequest: a session of that number is open already, or it is to have no room.
            KVMemorySpent: the room does not fit beside what the other sessions reserved.
        """
        if capacity_tokens < 1:
            raise BadRequest(f"Session {session_id} needs room for at least 1 token, and asks for {capacity_tokens}.")
        with self._lock:
            if session_id in self._sessions:
                raise BadRequest(f"Session {session_id} is open already. Close it first, or use another number.")
            what = f"A session of {counted(capacity_tokens, 'tokens')}"
            session = self._sessions[session_id] = SessionCache(self._reserve(what, capacity_tokens))
            return session

    def get(self, session_id: int) -> SessionCache:
        """The cache of an open session.

        Raises:
            BadRequest: no session of that number is open.
        """
        session = self._sessions.get(session_id)
        if session is None:
            raise BadRequest(f"No session {session_id} is open here. Open it first; {len(self)} others are.")
        return session

    def advance(self, session_id: int, num_tokens: int) -> None:
        """Count the tokens that a step has appended."""
        session = self.get(session_id)
        if session.length + num_tokens > session.capacity:
            raise KVMemorySpent(
                f"Session {session_id} has room for {counted(session.capacity, 'tokens')}, "
                f"not for {session.length + num_tokens}. Ask for fewer new tokens."
            )
        session.length += num_tokens

    def close(self, session_id: int) -> None:
        """Give a session's memory back. Harmless when the session is not open."""
        with self._lock:
            session = self.forget(session_id)
            if session is not None:
                self.free(session)

    def forget(self, session_id: int) -> SessionCache | None:
        """The first half of `close`, for a session that a step is writing to: its rows stay its own until `free`.

        What it had reserved, others may reserve at once: they write to it in a later step.
        """
        with self._lock:
            session = self._sessions.pop(session_id, None)
            if session is not None:
                self._budget.release(session.capacity * self.bytes_per_token)
                self._beside.release(session.capacity * self._bytes_beside(self.kept))
            return session

    def free(self, session: SessionCache) -> None:
        """The second half: give the rows back."""
        with self._lock:
            self._give_back(session.all_runs())

    def crop(self, session_id: int, length: int) -> None:
        """Forget all but the first `length` tokens."""
        session = self.get(session_id)
        if not 0 <= length <= session.length:
            raise BadRequest(f"Session {session_id} holds {session.length} tokens and cannot be cropped to {length}.")
        session.length = length

    def grow(self, session_id: int, capacity_tokens: int) -> None:
        """Make room for more tokens; those that are there stay where they are.

        Raises:
            KVMemorySpent: as `open`.
        """
        with self._lock:
            session = self.get(session_id)
            num_rows = capacity_tokens - session.capacity
            if num_rows <= 0:
                return
            session.grow(self._reserve(f"A session of {num_rows} more tokens", num_rows, behind=session.runs[-1]))

    def export(self, session_id: int, layers: Sequence[int] | None = None) -> dict[int, BlockTensors]:
        """Copies of a session's keys and values by layer, fit to be sent: all layers, or those asked for."""
        session = self.get(session_id)
        wanted = [block.layer for block in self.layout] if layers is None else layers
        exported = {}
        for layer in wanted:
            keys, values = session.read(layer, session.length)
            exported[layer] = keys.clone(memory_format=_DENSE), values.clone(memory_format=_DENSE)
        return exported

    def restore(
        self, session_id: int, length: int, tensors: Mapping[int, BlockTensors], capacity_tokens: int
    ) -> SessionCache:
        """Open a session with `length` tokens that another cache exported.

        Raises:
            BadRequest: a layer is missing or has another shape or dtype than this shard's.
            KVMemorySpent: as `open`.
        """
        for block in self.layout:
            self._check_tensors(session_id, length, block, tensors)
        session = self.open(session_id, max(capacity_tokens, length))
        for block in self.layout:
            session.append(block.layer, *tensors[block.layer])
        session.length = length
        return session

    def trim(self, layout: Sequence[BlockKV], kept: Kept, *, forgets: bool) -> None:
        """Cache for these blocks alone, and free what the others took.

        Args:
            kept: what else is kept of each token from now on.
            forgets: what was kept is forgotten.

        Raises:
            KVMemorySpent: what is to be kept takes more than what is given up, and the budget has less.
        """
        with self._lock:
            layers = {block.layer for block in layout}
            gone = [block for block in self.layout if block.layer not in layers]
            num_rows = self._num_reserved_rows()
            more = self._kept_bytes(kept) - self._kept_bytes(self.kept) - sum(map(self._bytes_of, gone))
            more_beside = self._bytes_beside(kept) - self._bytes_beside(self.kept)
            what = "What is sent of the open sessions"
            with self._taken(what, max(more, 0) * num_rows, max(more_beside, 0) * num_rows):
                for extent in self._extents if forgets else ():
                    extent.keep_as(kept)
            self._budget.release(max(-more, 0) * num_rows)
            self._beside.release(max(-more_beside, 0) * num_rows)
            self.layout, self.kept = tuple(layout), kept
            for block in gone:
                for extent in self._extents:
                    extent.remove(block.layer)
            for session in self._sessions.values():
                self._give_back(session.leave(block.layer for block in gone))

    def join(self, other: KVCache, kept: Kept) -> None:
        """Cache for the blocks of another cache of the same budget, too, which is of no use any more.

        Its sessions' rows stay where they are; those that are not open in both are closed.
        """
        with self._lock:
            self._close_others(other)
            other._close_others(self)
            num_rows = self._num_reserved_rows()
            needed_before = num_rows * (self.bytes_per_token + other.bytes_per_token)
            beside_before = num_rows * (self._bytes_beside(self.kept) + other._bytes_beside(other.kept))
            is_kept_here = not other.layout and kept.width == 0
            for extent in self._extents:
                extent.keep_as(kept._replace(width=0))
            own_layers = [block.layer for block in self.layout]
            self._extents += other._extents
            for session_id, session in self._sessions.items():
                there = other._sessions[session_id]
                self._give_back(session.join(there, own_layers, is_kept_here=is_kept_here))
            other._sessions, other._extents = {}, []
            self.layout, self.kept = (*self.layout, *other.layout), kept
            self._budget.release(needed_before - num_rows * self.bytes_per_token)
            self._beside.release(beside_before - num_rows * self._bytes_beside(kept))

    def _close_others(self, other: KVCache) -> None:
        """Those that are not open there, with as much room."""
        for session_id, session in list(self._sessions.items()):
            there = other._sessions.get(session_id)
            if there is None or there.capacity != session.capacity:
                self.close(session_id)

    def _give_back(self, runs: Iterable[Run]) -> None:
        for run in runs:
            run.extent.give_back(run.first_row, run.num_rows)
        self._extents = [extent for extent in self._extents if not extent.is_unused]

    def _reserve(self, what: str, num_rows: int, behind: Run | None = None) -> Run:
        """Rows that nobody else has: just behind a run, in any extent, or in a new one. The caller holds the lock."""
        with self._taken(what, num_rows * self.bytes_per_token, num_rows * self._bytes_beside(self.kept)):
            return self._place(num_rows, behind)

    def _place(self, num_rows: int, behind: Run | None) -> Run:
        extents = [extent for extent in self._extents if extent.serves(self.layout, self.kept)]
        if behind is not None and behind.extent in extents:
            end = behind.first_row + behind.num_rows
            if behind.extent.take_at(end, num_rows):
                return Run(behind.extent, end, num_rows)
        for extent in extents:
            first_row = extent.take(num_rows)
            if first_row is not None:
                return Run(extent, first_row, num_rows)
        extent = self._new_extent(num_rows)
        self._extents.append(extent)
        first_row = extent.take(num_rows)
        assert first_row is not None, (num_rows, extent.num_rows)
        return Run(extent, first_row, num_rows)

    def _new_extent(self, num_rows: int) -> Extent:
        """As large as all others together: there are few, however many sessions come. No larger than it must be, where
        the system does not give so many addresses (`ulimit -v`).
        """
        size = max(num_rows, LEAST_ROWS, sum(extent.num_rows for extent in self._extents))
        if self.device.type != "cpu" and self._budget.is_limited:
            size = min(size, num_rows + self._spare_rows() // SPARE_PART)
        with suppress(KVMemorySpent):
            return Extent(self.layout, self.dtype, size, self.kept, self.device)
        return Extent(self.layout, self.dtype, num_rows, self.kept, self.device)  # what the first took is free again

    def _spare_rows(self) -> int:
        """How many rows more may be taken on an accelerator, where they take memory at once, beside what is reserved.

        Raises:
            KVMemorySpent: what is free is taken already, in pieces that are too small.
        """
        spare_bytes = self._budget.room().free_bytes - sum(extent.free_bytes for extent in self._extents)
        if spare_bytes < 0:
            raise KVMemorySpent(
                f"{self.device} has so much memory for KV cache, but in pieces between other sessions. Wait for other "
                "sessions to end."
            )
        return spare_bytes // max(self.bytes_per_token, 1)

    @contextmanager
    def _taken(self, what: str, num_bytes: int, bytes_beside: int) -> Iterator[None]:
        """Take it from the budgets for what the block does, and give it back where that finds no addresses.

        Raises:
            KVMemorySpent: a budget has less.
        """
        with (
            _taken_from(self._budget, num_bytes, f"{what} needs {_mib(num_bytes)} MiB of KV cache here"),
            _taken_from(self._beside, bytes_beside, f"{what} needs {_mib(bytes_beside)} MiB beside the accelerator"),
        ):
            yield

    def _check_tensors(self, session_id: int, length: int, block: BlockKV, tensors: Mapping[int, BlockTensors]) -> None:
        """
        Raises:
            BadRequest: the block's tensors are missing or have another shape or dtype.
        """
        shapes = [(block.num_kv_heads, length, dim) for dim in (block.key_dim, block.value_dim)]
        expected = " and ".join(f"{self.dtype} {shape}" for shape in shapes)
        came = tensors.get(block.layer, ())
        found = " and ".join(f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in came)
        if found != expected:
            raise BadRequest(
                f"Session {session_id} cannot be restored: layer {block.layer} should come as {expected}, "
                f"and came as {found or 'nothing'}. Export it from a shard of the same model, in the same dtype, that "
                "holds this layer."
            )

    def _num_untouched_rows(self) -> int:
        with self._lock:
            return sum(session.capacity - session.length for session in self._sessions.values())

    def _num_reserved_rows(self) -> int:
        with self._lock:
            return sum(session.capacity for session in self._sessions.values())

    def _bytes_of(self, block: BlockKV) -> int:
        return self.dtype.itemsize * block.elements_per_token

    def _kept_bytes(self, kept: Kept) -> int:
        """Of what is kept of each token, those that take of the memory in which keys and values are."""
        return 0 if has_own_memory(self.device.type) else kept.bytes_per_token

    def _bytes_beside(self, kept: Kept) -> int:
        return kept.bytes_per_token - self._kept_bytes(kept)


_DENSE = torch.contiguous_format


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
