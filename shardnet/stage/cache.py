"""KV caches of many sessions in one shard: open, crop, grow, export, restore, block by block, under a memory budget.

Each block has its memory for itself, in stretches that sessions share (`stage.extent`): a block that leaves frees its
part, and one operation writes the new tokens of many sessions. Nothing is moved when a session opens, grows or ends,
and nothing when two stages become one: their sessions have blocks in several stretches then.
Memory is reserved when a session opens, and touched only as tokens come: what was not written yet takes no resident
memory. Sessions may be opened and closed by any thread; what reads or writes tokens is for the thread that computes.

Shapes: K key-value heads, n tokens in all, d head dimension.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import torch

from shardnet.errors import BadRequest, KVMemorySpent
from shardnet.foreign.quoting import counted
from shardnet.models.kv import ON_CPU, BlockKV
from shardnet.stage.budget import MemoryBudget
from shardnet.stage.extent import NOTHING, Extent, Kept
from shardnet.stage.rows import Recent, Rows
from shardnet.stage.session_cache import BlockTensors, SessionCache


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
        budget = MemoryBudget() if budget is None else budget
        beside = MemoryBudget() if beside is None else beside
        self._rows = Rows(layout, dtype, budget, kept, device, beside)
        self._sessions: dict[int, SessionCache] = {}
        self._lock = budget.lock

    def __contains__(self, session_id: int) -> bool:
        return session_id in self._sessions

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def layout(self) -> tuple[BlockKV, ...]:
        return self._rows.layout

    @property
    def dtype(self) -> torch.dtype:
        return self._rows.dtype

    @property
    def kept(self) -> Kept:
        return self._rows.kept

    @property
    def device(self) -> torch.device:
        return self._rows.device

    @property
    def extents(self) -> Sequence[Extent]:
        """Where the sessions have their rows."""
        return self._rows.extents

    @property
    def budget(self) -> MemoryBudget:
        return self._rows.budget

    @property
    def budget_beside(self) -> MemoryBudget:
        """Of what is on the CPU, whatever keys and values are on."""
        return self._rows.budget_beside

    @property
    def bytes_per_token(self) -> int:
        return self._rows.bytes_per_token

    @property
    def reserved_bytes(self) -> int:
        """What the open sessions may come to use."""
        return self.bytes_per_token * self._num_reserved_rows()

    @property
    def recent_bytes(self) -> int:
        """What has stayed of closed ones."""
        with self._lock:
            return self.bytes_per_token * sum(recent.kv.capacity for recent in self._rows.recent.values())

    @property
    def untouched_bytes(self) -> int:
        """Of what is reserved, that which holds no tokens yet: the system counts it as free. Not an accelerator's."""
        return self._rows.touched_bytes_per_token * self._num_untouched_rows()

    @property
    def untouched_bytes_beside(self) -> int:
        """The same of what is taken from the other budget."""
        return self._rows.bytes_beside * self._num_untouched_rows()

    def missing_bytes(self, num_tokens: int) -> int:
        """How much less is free than so many tokens take."""
        if not self.budget.is_limited:
            return 0
        return max(num_tokens * self.bytes_per_token - self.budget.room().free_bytes, 0)

    def shares_budget_with(self, other: KVCache) -> bool:
        """Whether what is freed here is free there."""
        return self.budget is other.budget

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
            session = self._sessions[session_id] = SessionCache(self._rows.take(what, capacity_tokens))
            return session

    def open_alike(self, session_id: int, capacity_tokens: int, other: int, num_tokens: int) -> SessionCache:
        """Open a session that begins with tokens of another one; `length` says with how many.

        What has stayed of one that was closed is taken over where it lies. It is copied where more of it would be lost
        than taken over, where the rows behind it are others' by now, and where the other one is open. Where it is gone,
        or there is no room for a copy, the session begins with nothing.

        Args:
            num_tokens: the first so many of the other one's, which has at least as many.

        Raises:
            BadRequest, KVMemorySpent: as `open`.
        """
        with self._lock:
            recent = self._rows.take_recent(other) if session_id not in self._sessions else None
            given = self._sessions.get(other) if recent is None else recent.kv
            has_more = recent is not None and 2 * num_tokens < recent.kv.length
            if (
                recent is not None
                and not has_more
                and self._is_taken_over(session_id, recent, num_tokens, capacity_tokens)
            ):
                return recent.kv
            try:
                session = self.open(session_id, capacity_tokens)
            except KVMemorySpent:
                if recent is None:
                    raise
                if has_more and self._is_taken_over(session_id, recent, num_tokens, capacity_tokens):
                    return recent.kv
                self._drop(recent)
                return self.open(session_id, capacity_tokens)
        if given is not None:
            with torch.inference_mode():  # what the thread that computes has made is only to be written to so
                session.begin_like(given, num_tokens, [block.layer for block in self.layout])
        with self._lock:
            if recent is not None and has_more:
                self._rows.release(recent.kv.capacity)
                self._keep(other, recent.kv, recent.came)
            elif recent is not None:
                self._drop(recent)
        return session

    def _is_taken_over(self, session_id: int, recent: Recent, num_tokens: int, capacity_tokens: int) -> bool:
        """Whether a session has these rows now, and room behind them; else only these rows are left."""
        session = recent.kv
        self._rows.release(session.capacity - num_tokens)
        self._rows.give_back(session.cut(num_tokens))
        if capacity_tokens > num_tokens and not self._rows.extend(session, capacity_tokens - num_tokens):
            return False
        self._sessions[session_id] = session
        return True

    def _drop(self, recent: Recent) -> None:
        self._rows.release(recent.kv.capacity)
        self.free(recent.kv)

    def recent(self, session_id: int) -> Recent | None:
        """What has stayed of a session that was closed."""
        with self._lock:
            return self._rows.recent.get(session_id)

    def keep(self, session_id: int, session: SessionCache, came: array[int]) -> None:
        """The other second half of `close`: let what a session has stay for those that begin with the same tokens, as
        long as nobody needs the memory.

        Args:
            came: at the ring's first stage, the ids of its tokens.
        """
        with self._lock:
            if session.length and session.place is not None:
                self._rows.give_back(session.cut(session.length))
                self._keep(session_id, session, came)
            else:
                self.free(session)

    def _keep(self, session_id: int, session: SessionCache, came: array[int]) -> None:
        if not self._rows.keep(session_id, session, came):
            self.free(session)

    def drop_recent(self) -> None:
        """Free all that has stayed."""
        with self._lock:
            self._rows.give_all_up()

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
                self._rows.release(session.capacity)
            return session

    def free(self, session: SessionCache) -> None:
        """The second half: give the rows back."""
        with self._lock:
            self._rows.give_back(session.all_runs())

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
            session.grow(self._rows.take(f"A session of {num_rows} more tokens", num_rows, behind=session.runs[-1]))

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
            self._rows.give_all_up()
            gone = self._rows.become(layout, kept, self._num_reserved_rows(), forgets=forgets)
            for session in self._sessions.values():
                self._rows.give_back(session.leave(block.layer for block in gone))

    def join(self, other: KVCache, kept: Kept) -> None:
        """Cache for the blocks of another cache of the same budget, too, which is of no use any more.

        Its sessions' rows stay where they are; those that are not open in both are closed.
        """
        with self._lock:
            self.drop_recent()
            other.drop_recent()
            self._close_others(other)
            other._close_others(self)
            is_kept_here = not other.layout and kept.width == 0
            own_layers = [block.layer for block in self.layout]
            self._rows.join(other._rows, kept, self._num_reserved_rows())
            for session_id, session in self._sessions.items():
                there = other._sessions[session_id]
                self._rows.give_back(session.join(there, own_layers, is_kept_here=is_kept_here))
            other._sessions = {}

    def _close_others(self, other: KVCache) -> None:
        """Those that are not open there, with as much room."""
        for session_id, session in list(self._sessions.items()):
            there = other._sessions.get(session_id)
            if there is None or there.capacity != session.capacity:
                self.close(session_id)

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


_DENSE = torch.contiguous_format
