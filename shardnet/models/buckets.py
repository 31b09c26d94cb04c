"""Sessions of one step whose next tokens attend together: of similar length, so that little of a product is padding.

Their keys are brought together by a copy, which pays while the copy takes less time than the calls that a session by
itself would take: for short sessions. Longer ones, prompts, and sessions whose tokens lie in several places stay alone.

Shapes: B sessions, n keys that the longest of them sees, K key-value heads, d head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.models.kv import KVRows, Place, Segment

MOST_ELEMENTS = 48 << 10
"""Numbers of keys that are copied for one session at most; about what a copy moves in the time of ten calls."""
LEAST_FILLED = 0.5
"""The shortest session of a bucket has at least this share of the longest one's tokens."""


class Seen(NamedTuple):
    """What the sessions of a bucket look at."""

    rows: Tensor
    """[B * n] of the store; beyond a session's end its first one again: nobody's keys but its own are read."""
    num_keys: int
    bias: Tensor | None
    """[B, 1, 1, n] 0 or -inf, to be added to the scores; None where all sessions see equally many keys."""


class Bucket:
    """Sessions with one new token each, in one store.

    Args:
        order: where each has its row among those of the step.
        lengths: tokens of each, the new one included.
        device: where the store is.
    """

    def __init__(
        self,
        store: KVRows,
        order: Sequence[int],
        firsts: Sequence[int],
        lengths: Sequence[int],
        device: torch.device,
    ) -> None:
        self.store = store
        self.order = torch.tensor(order, device=device)
        self._lengths = lengths
        self._ends = torch.tensor(
            [first + length for first, length in zip(firsts, lengths, strict=True)], device=device
        )
        self.targets = self._ends - 1
        """[B] the rows for the new tokens."""
        self._seen: dict[int | None, Seen] = {}

    def seen(self, window: int | None, dtype: torch.dtype) -> Seen:
        """What they look at who see at most `window` tokens, their own included. Made once a step."""
        if window not in self._seen:
            device = self._ends.device
            sizes = [length if window is None else min(length, window) for length in self._lengths]
            counts, places = torch.tensor(sizes, device=device), torch.arange(max(sizes), device=device)
            is_there = places < counts[:, None]
            rows = ((self._ends - counts)[:, None] + places * is_there).view(-1)
            bias = None
            if min(sizes) < max(sizes):
                bias = torch.zeros(is_there.shape, dtype=dtype, device=device)
                bias = bias.masked_fill_(~is_there, float("-inf"))[:, None, None]
            self._seen[window] = Seen(rows, len(places), bias)
        return self._seen[window]


def buckets_of(
    segments: Sequence[Segment], elements_per_key: int, device: torch.device
) -> tuple[list[Bucket], list[int]]:
    """The buckets of a step, and the indices of the sessions that stay alone. The caches are on `device`."""
    longest = MOST_ELEMENTS // elements_per_key
    alone: list[int] = []
    of_store: dict[int, list[_Member]] = {}
    row = 0
    for index, segment in enumerate(segments):
        kv, place = segment.kv, segment.kv.place
        if segment.num_tokens == 1 and kv.length < min(longest, kv.capacity) and place is not None:
            of_store.setdefault(id(place.store), []).append(_Member(kv.length + 1, index, row, place))
        else:
            alone.append(index)
        row += segment.num_tokens
    buckets = []
    for members in of_store.values():
        for similar in _similar(members):
            if len(similar) == 1:
                alone.append(similar[0].index)
                continue
            rows, firsts = [member.row for member in similar], [member.place.first_row for member in similar]
            lengths = [member.length for member in similar]
            buckets.append(Bucket(similar[0].place.store, rows, firsts, lengths, device))
    return buckets, sorted(alone)


class _Member(NamedTuple):
    length: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    row: int
    place: Place


def _similar(members: list[_Member]) -> list[list[_Member]]:
    """Those of similar length together, in the order of the step."""
    groups: list[list[_Member]] = []
    least = 0.0
    for member in sorted(members, key=lambda member: -member.length):
        if not groups or member.length < least:
            groups.append([])
            least = LEAST_FILLED * member.length
        groups[-1].append(member)
    return [sorted(group, key=lambda member: member.row) for group in groups]
