"""Rotary tables: how far the queries and keys of each position are turned, reckoned once for each position.

The model's own rotary module reckons them. Within the tokens that a session may hold, its tables do not change with the
length of the text (`sizes.context_of`), so one row for each position serves all sessions and all steps. They are
reckoned on the CPU, so that all devices of a ring turn by the same numbers.

Shapes: T new tokens, n positions, d what is turned of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from shardnet.models.kv import ON_CPU

LEAST_POSITIONS = 512
"""Tables begin with so many rows, and double when a longer text comes."""


class Turn(NamedTuple):
    """Cosine and sine [1, T, d] of some positions."""

    cos: Tensor
    sin: Tensor


class RotaryTables:
    """The tables of one rotary module.

    Args:
        limit: no position is as high: a module may reckon otherwise beyond it.
        kind: of the blocks, where a module has a table for each kind (`config.layer_types`).
        device: where the rows are wanted.
    """

    def __init__(
        self,
        rotary: nn.Module,
        dtype: torch.dtype,
        limit: int,
        kind: str | None = None,
        device: torch.device = ON_CPU,
    ) -> None:
        self._rotary = rotary
        self._example = torch.empty(0, dtype=dtype)
        self._limit = limit
        self._kind = () if kind is None else (kind,)
        self._device = device
        self._num_rows = 0
        self._turn = Turn(self._example, self._example)
        self._signed: Turn | None = None

    def at(self, positions: Tensor, end: int) -> Turn:
        """The rows of positions [1, T], which are all below `end`."""
        self._reckon(end)
        return Turn(*(table.index_select(0, positions[0])[None] for table in self._turn))

    def signed_at(self, positions: Tensor, end: int) -> Turn:
        """The same as [T, 1, d]; the sine has the sign of the half of a head that it meets."""
        self._reckon(end)
        if self._signed is None:
            sin, half = self._turn.sin, self._turn.sin.shape[-1] // 2
            self._signed = Turn(self._turn.cos, torch.cat((-sin[:, :half], sin[:, half:]), -1))
        return Turn(*(table.index_select(0, positions[0])[:, None] for table in self._signed))

    def _reckon(self, end: int) -> None:
        """Have a row for each position below `end`."""
        if end <= self._num_rows:
            return
        self._num_rows = max(end, min(self._limit, max(LEAST_POSITIONS, 2 * self._num_rows)))
        cos, sin = self._rotary(self._example, torch.arange(self._num_rows)[None], *self._kind)
        self._turn, self._signed = Turn(cos[0].to(self._device), sin[0].to(self._device)), None
