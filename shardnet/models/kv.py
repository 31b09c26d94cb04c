"""What a shard needs to know of a session's KV cache. The caches themselves are in `shardnet.stage.cache`.

Shapes: H query heads, K key-value heads, t new tokens, n tokens in all, d head dimension, R rows of a store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from shardnet.models.scoring import AtHead
from shardnet.quantised.kv_names import AUTO, head_bytes

ON_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class BlockKV:
    """What one decoder block caches for one token; in its fields, numbers of the dtype in which it is kept."""

    layer: int
    num_kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def elements_per_token(self) -> int:
        return self.num_kv_heads * (self.key_dim + self.value_dim)


def stored_as(kv_dtype: str, block: BlockKV) -> BlockKV:
    """What is kept of a block whose heads have so many numbers, in bytes where it is kept in 8 bits."""
    if kv_dtype == AUTO:
        return block
    key_bytes, value_bytes = (head_bytes(kv_dtype, dim, 1) for dim in (block.key_dim, block.value_dim))
    return replace(block, key_dim=key_bytes, value_dim=value_bytes)


class KVRows(Protocol):
    """Where the tokens of many sessions lie, a row for each."""

    @property
    def keys(self) -> Mapping[int, Tensor]:
        """[R, K, d] of each block."""

    @property
    def values(self) -> Mapping[int, Tensor]:
        """[R, K, d'] of each block."""


class Place(NamedTuple):
    """Where all tokens of one session lie, one behind the other."""

    store: KVRows
    first_row: int


class KVRun(Protocol):
    """Tokens of one session that lie one behind the other."""

    @property
    def extent(self) -> KVRows: ...

    @property
    def first_row(self) -> int: ...

    @property
    def num_rows(self) -> int:
        """Some of the last ones may be free."""


class SessionKV(Protocol):
    """The cache of one session in one shard."""

    length: int
    """Tokens cached before this step: the position of the first new token."""
    capacity: int
    """Tokens that there is room for."""

    @property
    def place(self) -> Place | None:
        """None where they lie in several places."""

    def runs_of(self, layer: int) -> Sequence[KVRun]:
        """Where a block's tokens lie, in order."""

    def check_room(self, num_tokens: int) -> None:
        """
        Raises:
            KVMemorySpent: there is no room for so many more.
        """

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values [K, t, d] behind the cached ones; return all of them, [K, n, d].

        Does not move `length`: all blocks of a shard append at the same place, and the caller advances after the step.
        """


@dataclass(frozen=True, slots=True)
class Segment:
    """The new tokens of one session in one step."""

    kv: SessionKV
    num_tokens: int
    num_logits: int = 1
    """Of so many of its last tokens a shard with the head gives logits: of none of a chunk of a prompt but the last."""
    at_head: AtHead | None = None
    """What is taken of each of its tokens there, instead of logits."""
