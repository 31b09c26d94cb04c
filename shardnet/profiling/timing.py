"""How one step is timed: through a real shard, often enough, and without what other programs add."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from shardnet.models import Segment, Shard
from shardnet.progress import Progress
from shardnet.stage.cache import KVCache
from shardnet.stage.pace import Pace
from shardnet.stage.session_cache import SessionCache

_MAX_RUNS = 25
"""Of a step in a round."""


@dataclass(frozen=True)
class Clock:
    """Shares the time out and tells how much of it is gone."""

    what: str
    start_s: float
    max_seconds: float
    progress: Progress

    def left_s(self, until_share: float = 1.0) -> float:
        return max(0.0, self.max_seconds * until_share - (time.perf_counter() - self.start_s))

    def tell(self) -> None:
        # Never full before the end: `end` does that.
        self.progress(self.what, min(self.max_seconds - self.left_s(), 0.99 * self.max_seconds), self.max_seconds)

    def end(self) -> None:
        self.progress(self.what, self.max_seconds, self.max_seconds)


class ShardSteps:
    """Steps through a shard, with KV caches of as many sessions as each wants; they leave lengths as they were."""

    def __init__(self, shard: Shard, pace: Pace) -> None:
        self._shard = shard
        self._pace = pace

    def fits(self, num_sessions: int, num_tokens: int, cached: int, limit_bytes: int) -> bool:
        return num_sessions * (num_tokens + cached) * self._shard.kv_bytes_per_token <= max(limit_bytes, 2**26)

    def step(self, num_tokens: int, num_sessions: int, cached: int) -> Callable[[], object]:
        """A function that runs `num_tokens` new tokens of each of `num_sessions` sessions that hold `cached`."""
        shard = self._shard
        caches = KVCache(shard.kv_layout, shard.kv_row_dtype, device=shard.device)
        segments = [
            Segment(_filled(shard, caches, session, cached + num_tokens, cached), num_tokens)
            for session in range(num_sessions)
        ]
        num_rows = num_sessions * num_tokens
        generator = torch.Generator().manual_seed(0)
        if shard.has_embedding:
            rows = torch.randint(shard.config.vocab_size, (num_rows,), generator=generator)
        else:
            rows = torch.randn(num_rows, shard.config.hidden_size, generator=generator).to(shard.dtype)
        return lambda: self._pace(lambda: shard.forward(rows, segments))


def _filled(shard: Shard, caches: KVCache, session: int, capacity: int, length: int) -> SessionCache:
    """A session's cache with numbers in it: untouched memory would be all the same page, and fast."""
    tensors = {}
    for block in caches.layout:
        key, value = (shard.as_kept(torch.linspace(-1, 1, dim)) for dim in shard.head_sizes)
        tensors[block.layer] = (
            key.expand(block.num_kv_heads, length, -1),
            value.expand(block.num_kv_heads, length, -1),
        )
    return caches.restore(session, length, tensors, capacity)


def timed(step: Callable[[], object], slot_s: float, is_warm: bool = False) -> list[float]:
    """Seconds of some runs, the fastest first.

    Unless `is_warm`, the first run warms up and counts only if there is no time for more.
    """
    start = time.perf_counter()
    step()
    now = time.perf_counter()
    first_s = now - start
    times = [first_s] if is_warm else []
    while len(times) < _MAX_RUNS and (now - start + first_s < slot_s or (times and len(times) < 3 and first_s < 0.05)):
        before = now
        step()
        now = time.perf_counter()
        times.append(now - before)
    return sorted(times) or [first_s]


def undisturbed(times: Sequence[float]) -> float:
    """The lower quartile, interpolated: a slow device has few runs, whose fastest one would flatter it.

    What other programs do can only add, and comes in bursts longer than half of a slot.
    """
    place = (len(times) - 1) / 4
    left = int(place)
    right = min(left + 1, len(times) - 1)
    return times[left] + (place - left) * (times[right] - times[left])
