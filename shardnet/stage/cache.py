"""KV caches of many sessions in one shard: append, crop, export, restore, under a memory budget.

Used by one thread at a time (a stage's). Memory is reserved when a session opens, and touched only as tokens come: what
was not written yet takes no resident memory.

Shapes: K key-value heads, t new tokens, n tokens in all, d head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from shardnet.errors import BadRequest, KVMemorySpent
from shardnet.models.kv import BlockKV

BlockTensors = tuple[Tensor, Tensor]
"""Keys [K, n, d] and values [K, n, d'] of one block."""


class SessionCache:
    """One session's keys and values in one allocation. What a shard sees of it is `models.kv.SessionKV`."""

    __slots__ = ("capacity", "keys", "length", "values")

    def __init__(self, layout: Sequence[BlockKV], dtype: torch.dtype, capacity: int) -> None:
        self.length = 0
        self.capacity = capacity
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        store = torch.empty(capacity * sum(block.elements_per_token for block in layout), dtype=dtype)
        start = 0
        for block in layout:
            for tensors, dim in ((self.keys, block.key_dim), (self.values, block.value_dim)):
                size = block.num_kv_heads * capacity * dim
                tensors[block.layer] = store[start : start + size].view(block.num_kv_heads, capacity, dim)
                start += size

    def append(self, layer: int, key: Tensor, value: Tensor) -> BlockTensors:
        """See `SessionKV.append`.

        Raises:
            KVMemorySpent: more tokens than the session reserved.
        """
        length, num_new = self.length, key.shape[1]
        end = length + num_new
        if end > self.capacity:
            raise KVMemorySpent(
                f"The session has room for {self.capacity} tokens and this step would make it {end}. "
                "Reserve more for it (grow), or ask for fewer new tokens."
            )
        keys, values = self.keys[layer], self.values[layer]
        keys.narrow(1, length, num_new).copy_(key)
        values.narrow(1, length, num_new).copy_(value)
        return keys.narrow(1, 0, end), values.narrow(1, 0, end)


class KVCache:
    """The sessions of one shard. A shard without blocks reserves nothing, and still counts its sessions' tokens."""

    def __init__(self, layout: Sequence[BlockKV], dtype: torch.dtype, budget_bytes: int | None = None) -> None:
        """
        Args:
            layout: what each block caches (`Shard.kv_layout`).
            budget_bytes: what all sessions together may reserve; None for no limit.
        """
        self.layout = tuple(layout)
        self.dtype = dtype
        self.budget_bytes = budget_bytes
        self.bytes_per_token = dtype.itemsize * sum(block.elements_per_token for block in self.layout)
        self._sessions: dict[int, SessionCache] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session_id: int) -> bool:
        return session_id in self._sessions

    @property
    def session_ids(self) -> tuple[int, ...]:
        return tuple(self._sessions)

    @property
    def reserved_bytes(self) -> int:
        """What the open sessions may come to use."""
        return self.bytes_per_token * sum(session.capacity for session in self._sessions.values())

    @property
    def used_bytes(self) -> int:
        """What the cached tokens take now."""
        return self.bytes_per_token * sum(session.length for session in self._sessions.values())

    def open(self, session_id: int, capacity_tokens: int) -> SessionCache:
        """Reserve room for a new session.

        Raises:
            BadRequest: a session of that number is open already.
            KVMemorySpent: the room does not fit beside what the other sessions reserved.
        """
        if session_id in self._sessions:
            raise BadRequest(f"Session {session_id} is open already. Close it first, or use another number.")
        self._check_budget(capacity_tokens, self.reserved_bytes)
        session = self._sessions[session_id] = SessionCache(self.layout, self.dtype, capacity_tokens)
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

    def length(self, session_id: int) -> int:
        """Tokens cached."""
        return self.get(session_id).length

    def advance(self, session_id: int, num_tokens: int) -> None:
        """Count the tokens that a step has appended."""
        session = self.get(session_id)
        if session.length + num_tokens > session.capacity:
            raise KVMemorySpent(
                f"Session {session_id} has room for {session.capacity} tokens, "
                f"not for {session.length + num_tokens}. Reserve more for it (grow)."
            )
        session.length += num_tokens

    def close(self, session_id: int) -> None:
        """Give a session's memory back. Harmless when the session is not open."""
        self._sessions.pop(session_id, None)

    def crop(self, session_id: int, length: int) -> None:
        """Forget all but the first `length` tokens."""
        session = self.get(session_id)
        if not 0 <= length <= session.length:
            raise BadRequest(f"Session {session_id} holds {session.length} tokens and cannot be cropped to {length}.")
        session.length = length

    def grow(self, session_id: int, capacity_tokens: int) -> None:
        """Make room for more tokens. Old and new memory coexist while the tokens are copied."""
        old = self.get(session_id)
        if capacity_tokens <= old.capacity:
            return
        self._check_budget(capacity_tokens, self.reserved_bytes - old.capacity * self.bytes_per_token)
        session = SessionCache(self.layout, self.dtype, capacity_tokens)
        for layer in session.keys:
            session.keys[layer][:, : old.length] = old.keys[layer][:, : old.length]
            session.values[layer][:, : old.length] = old.values[layer][:, : old.length]
        session.length = old.length
        self._sessions[session_id] = session

    def export(self, session_id: int, layers: Sequence[int] | None = None) -> dict[int, BlockTensors]:
        """Copies of a session's keys and values by layer, fit to be sent: all layers, or those asked for."""
        session = self.get(session_id)
        wanted = session.keys if layers is None else layers
        return {
            layer: (
                session.keys[layer][:, : session.length].clone(),
                session.values[layer][:, : session.length].clone(),
            )
            for layer in wanted
        }

    def restore(
        self, session_id: int, length: int, tensors: Mapping[int, BlockTensors], capacity_tokens: int
    ) -> SessionCache:
        """Open a session with `length` tokens that another cache exported.

        Raises:
            BadRequest: a layer is missing or has another shape than this shard's.
            KVMemorySpent: as `open`.
        """
        for block in self.layout:
            expected = ((block.num_kv_heads, length, block.key_dim), (block.num_kv_heads, length, block.value_dim))
            found = (
                tuple(tuple(tensor.shape) for tensor in tensors[block.layer]) if block.layer in tensors else "nothing"
            )
            if found != expected:
                raise BadRequest(
                    f"Session {session_id} cannot be restored: layer {block.layer} should come as {expected}, "
                    f"and came as {found}. Export it from a shard of the same model that holds this layer."
                )
        session = self.open(session_id, max(capacity_tokens, length))
        for block in self.layout:
            keys, values = tensors[block.layer]
            session.keys[block.layer][:, :length] = keys
            session.values[block.layer][:, :length] = values
        session.length = length
        return session

    def _check_budget(self, capacity_tokens: int, reserved_bytes: int) -> None:
        needed = capacity_tokens * self.bytes_per_token
        if self.budget_bytes is not None and reserved_bytes + needed > self.budget_bytes:
            raise KVMemorySpent(
                f"A session of {capacity_tokens} tokens needs {_mib(needed)} MiB of KV cache here and "
                f"{_mib(max(self.budget_bytes - reserved_bytes, 0))} of {_mib(self.budget_bytes)} MiB are free. "
                "Wait for other sessions to end, shorten the prompt or the answer, or give the device more memory."
            )


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f}"
