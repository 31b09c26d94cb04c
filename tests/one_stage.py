"""One real stage of a tiny model by itself, and what stands for the next one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from processes import wait_until

from shardnet.codecs.rows import codec_named
from shardnet.errors import BadRequest
from shardnet.loader import load_shard, open_model
from shardnet.models import Shard
from shardnet.stage.budget import MemoryBudget
from shardnet.stage.cache import KVCache
from shardnet.stage.sent_log import kept_by
from shardnet.stage.stage import Stage
from shardnet.timeline.recorder import Recorder
from shardnet.transport.messages import Hop, Part, RingId, SessionStanding
from shardnet.transport.session_messages import SampledToken, SamplingOptions, SessionSpec

RING = RingId(b"epoch", 1)
CHUNK_TOKENS = 4


class Sent(NamedTuple):
    """A hop on its way."""

    parts: tuple[Part, ...]
    rows: torch.Tensor
    on_taken: Callable[[], None] | None
    """Of a bulk hop."""


class Road:
    """An outlet on which everything stays until somebody takes it."""

    def __init__(self) -> None:
        self.hops: list[Sent] = []
        self.told: list[SampledToken] = []
        self.failures: list[BadRequest] = []
        self._lock = threading.Lock()

    def hop(self, parts: tuple[Part, ...], rows: torch.Tensor) -> None:
        self._put(Sent(parts, rows, None))

    def bulk_hop(self, parts: tuple[Part, ...], rows: torch.Tensor, on_taken: Callable[[], None]) -> None:
        self._put(Sent(parts, rows, on_taken))

    def tokens(self, tokens: tuple[SampledToken, ...]) -> None:
        self.told += tokens

    def session_failed(self, session: int, error: BadRequest) -> None:
        self.failures.append(error)

    def failed(self, error: BaseException) -> None:
        raise AssertionError(error)

    def take_all(self) -> list[Sent]:
        with self._lock:
            taken, self.hops = self.hops, []
        return taken

    def _put(self, sent: Sent) -> None:
        assert sum(part.num_tokens for part in sent.parts) == sent.rows.shape[0]
        assert sent.rows.untyped_storage().nbytes() == sent.rows.nbytes, "a view ships its whole storage"
        with self._lock:
            self.hops.append(sent)


def shard_of(folder: Path, first_unit: int, last_unit: int) -> Shard:
    files = open_model(str(folder), "float32")
    return load_shard(files.config, files.tensors_of(first_unit, last_unit), first_unit, last_unit, "float32")


@contextmanager
def stage_of(
    shard: Shard, road: Road, *, budget: MemoryBudget | None = None, codec: str = "float32"
) -> Iterator[Stage]:
    kv = KVCache(shard.kv_layout, shard.kv_row_dtype, budget, kept_by(shard, codec_named(codec)))
    recorder = Recorder("here", 0)
    with Stage(
        shard, kv, recorder, road, chunk_tokens=CHUNK_TOKENS, num_threads=1, sent_as=codec_named(codec)
    ) as stage:
        yield stage


def spec(session: int, prompt_tokens: int, max_new_tokens: int = 8, *, send_from: int = 0) -> SessionSpec:
    """Greedy."""
    capacity = prompt_tokens + max_new_tokens
    sampling = SamplingOptions()
    return SessionSpec(session, capacity, prompt_tokens, prompt_tokens, max_new_tokens, (), sampling, (), send_from)


def feed(
    stage: Stage, session: int, position: int, rows: torch.Tensor, on_taken: Callable[[], None] | None = None
) -> None:
    """Decode work, or a prompt chunk where `on_taken` is there."""
    unit = stage.shard.first_unit
    stage.put(Hop(RING, 0, (Part(session, position, len(rows)),), rows, "before", 0, unit), 0, on_taken)


def nothing() -> None:
    """For who does not care when a chunk is taken."""


def standing(stage: Stage, session: int) -> SessionStanding:
    standings = stage.between_steps(stage.standings).result(timeout=5)
    return next(one for one in standings if one.session == session)


def wait_for_length(stage: Stage, session: int, length: int) -> None:
    wait_until(lambda: standing(stage, session).length == length, 10)
