"""A device's weights on disk: its copies of checkpoints, what it has fetched of others, and what others get of both.

A device with a copy of a checkpoint on its disk fetches nothing. One without fetches the tensors of its shard, and no
others, before they are read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch import Tensor

from shardnet.errors import DamagedCheckpoint, ModelNotFound
from shardnet.loader.copies import Copy
from shardnet.loader.sources import find_copy, require_copy
from shardnet.process.threads import on_thread
from shardnet.shipping.courtesy import Courtesy
from shardnet.shipping.fetching import LOOK_S, Fetch, Tally, Way, ask_for_parts
from shardnet.shipping.limits import FetchLimits
from shardnet.shipping.pace import FetchPace
from shardnet.shipping.shelf import Shelf
from shardnet.shipping.store import Store
from shardnet.stage.pace import Pace
from shardnet.transport.base import Transport
from shardnet.transport.messages import StageSpec
from shardnet.transport.shipping_messages import CheckpointList, FetchProgress

TELL_EVERY_S = 0.25

OnProgress = Callable[[FetchProgress], object]


class Depot:
    """Of one device."""

    def __init__(
        self,
        transport: Transport,
        cache_dir: Path,
        limits: FetchLimits,
        in_use: Callable[[], set[str]],
        on_progress: OnProgress,
    ) -> None:
        """
        Args:
            in_use: gives the roots of tensors that stages have.
            on_progress: told how far a fetch is, on the thread that fetches.
        """
        self._transport = transport
        self._cache_dir = cache_dir
        self._in_use = in_use
        self._on_progress = on_progress
        self._store = Store(transport.name, cache_dir / "fetched", limits.cache_bytes)
        self._courtesy = Courtesy()
        self._shelf = Shelf(transport.name, self._store, self._is_coming, self._courtesy)
        self._pace = FetchPace(limits.bytes_per_s)
        self._claimed: set[str] = set()
        """Tensors that are being fetched."""
        self._news = threading.Condition()
        transport.expose("has_copy", self.has_copy)
        transport.expose("take_list", self.take_list)
        transport.expose("weights_chunk", self._shelf.chunk)

    def beside(self, pace: Pace) -> Pace:
        """The same pace for stages, towards whose steps this is courteous."""

        def run(work: Callable[[], Tensor]) -> Tensor:
            self._courtesy.step_begins(time.monotonic())
            try:
                return pace(work)
            finally:
                self._courtesy.step_ends(time.monotonic())

        return run

    def has_copy(self, checkpoint: str) -> Future[bool]:
        """Whether this device has the files of a checkpoint. From now on others may fetch from these."""
        return on_thread("shardnet-copy", partial(self._has_copy, checkpoint))

    def take_list(self, checkpoint: str, what: CheckpointList) -> Future[tuple[str, ...]]:
        """Learn of a checkpoint that this device has no copy of; the future gives the roots that it has already."""
        return on_thread("shardnet-list", partial(self._take_list, checkpoint, what))

    @contextmanager
    def copy_for(self, spec: StageSpec, check: Callable[[], object]) -> Iterator[Copy]:
        """The checkpoint of a stage, of which the stage's own tensors are on this disk as long as the block lasts.

        Waits until what lacks is fetched. Args: `check` raises where nobody waits for it any more.

        Raises:
            ModelNotFound: this device knows no such checkpoint, or it has no such tensors.
            ShardnetError: it cannot be fetched; see `Fetch.run`.
        """
        copy, known = self._own_copy(spec.checkpoint), self._store.roots(spec.checkpoint)
        if copy is None and known is None:  # one that has become another model says so when it is read
            copy = require_copy(spec.checkpoint, self._cache_dir, self._transport.name)
        if copy is not None:
            yield copy
            return
        roots = list(dict.fromkeys(spec.tensors.values()))
        all_roots = frozenset((known or {}).values())
        if not all_roots.issuperset(roots):
            raise ModelNotFound(f"The checkpoint {spec.checkpoint[:16]} has no such tensors as its stage is to have.")
        self._shelf.open_fetched(spec.checkpoint, all_roots)
        with self._store.kept(roots):
            self._fetch(spec, roots, check)
            yield self._store.copy_of(spec.checkpoint, roots)

    def close(self) -> None:
        """Others get nothing from here any more."""
        self._shelf.close()
        self._store.close()

    def _has_copy(self, checkpoint: str) -> bool:
        """Where experts are thousands, what is known of a copy takes a second to read."""
        return self._own_copy(checkpoint) is not None

    def _own_copy(self, checkpoint: str) -> Copy | None:
        """A copy of this machine, which others may have from now on; None for one that has become another model."""
        copy = find_copy(checkpoint, self._cache_dir)
        try:
            if copy is None or not copy.may_be_whole():
                return None
        except (OSError, DamagedCheckpoint):  # it is just being replaced
            return None
        self._shelf.open(copy)
        return copy

    def _take_list(self, checkpoint: str, what: CheckpointList) -> tuple[str, ...]:
        self._store.enter(checkpoint, what)
        self._shelf.open_fetched(checkpoint, frozenset(what.roots.values()))
        return tuple(root for root in dict.fromkeys(what.roots.values()) if self._store.is_whole(root))

    def _is_coming(self, root: str) -> bool:
        with self._news:
            return root in self._claimed

    def _fetch(self, spec: StageSpec, roots: Collection[str], check: Callable[[], object]) -> None:
        """What is being fetched already, for another stage or by another device of this machine, is waited for."""
        while lacking := [root for root in roots if not self._store.is_whole(root)]:
            check()
            with self._news:
                own = [root for root in lacking if root not in self._claimed and self._store.claim(root)]
                if not own:
                    self._news.wait(LOOK_S)
                    continue
                self._claimed.update(own)
            try:
                self._fetch_own(spec, own, check)
            finally:
                with self._news:
                    self._claimed.difference_update(own)
                    for root in own:
                        self._store.release(root)
                    self._news.notify_all()

    def _fetch_own(self, spec: StageSpec, roots: Sequence[str], check: Callable[[], object]) -> None:
        way = Way(self._transport, spec.source, spec.checkpoint)
        fetch = Fetch(way, self._store, self._pace, ask_for_parts(way, self._store, roots))
        self._store.make_room(fetch.tally.total_bytes, self._in_use())
        teller = _Teller(self._transport, spec, self._on_progress)

        def told(tally: Tally) -> None:
            check()
            teller.tell(tally)

        fetch.run(told)


class _Teller:
    """Tells the coordinator, and whoever is at this device, how far a stage is."""

    def __init__(self, transport: Transport, spec: StageSpec, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._transport = transport
        self._spec = spec
        self._due_s = 0.0

    def tell(self, tally: Tally) -> None:
        """Not too often, and when all is there."""
        now_s = time.monotonic()
        if now_s < self._due_s and tally.done_bytes < tally.total_bytes:
            return
        self._due_s = now_s + TELL_EVERY_S
        stop = self._spec.ring[self._spec.stage]
        progress = FetchProgress(
            self._transport.name,
            stop.first_unit,
            stop.last_unit,
            tally.done_bytes,
            tally.total_bytes,
            tuple(holder for holder, _ in tally.bytes_from.most_common()),
            tuple(tally.lies),
            now_s - tally.began_s,
        )
        self._transport.post(self._spec.source, "fetch_progress", self._spec.ring_id, progress)
        self._on_progress(progress)
