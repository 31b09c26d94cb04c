"""Fetches what lacks of a shard's tensors: a few requests under way, each part compared as it comes, and kept at once.

Runs on the thread of whoever loads, which is none of the network's, and compares and writes on another one: meanwhile
more is asked for. What decides is `errand`; here it is done.
"""

from __future__ import annotations

import queue
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from shardnet.errors import CallTimeout, ClusterError, DamagedCheckpoint, DeviceLost, ShardnetError
from shardnet.loader.parts import cut
from shardnet.process.threads import Errands, do_for
from shardnet.shipping.errand import Errand, Order
from shardnet.shipping.pace import FetchPace
from shardnet.shipping.store import Store, num_bytes_of
from shardnet.shipping.window import FetchWindow
from shardnet.transport.base import Transport
from shardnet.transport.shipping_messages import (
    MOST_ROOTS,
    ChunkWanted,
    HoldersWanted,
    TensorHolders,
    TensorParts,
    Tensors,
)

MOST_CHUNKS = 32
"""Under way to this device for one shard; of large ones it has fewer, see `window`."""
MOST_WHOLE = 2
"""Parts that have come and wait to be compared and written: where it is more, nothing is asked for."""
CHUNK_S = 30.0
ASK_S = 30.0
LOOK_S = 0.2
"""How often what is on its way to a holder is asked for again, and whether anybody still waits for the shard."""
STALLED_S = 60.0
"""A holder from which nothing comes for so long, as it gets nothing itself, is passed over: a part takes its time."""


@dataclass(frozen=True)
class Way:
    """From where a device fetches."""

    transport: Transport
    source: str
    """The coordinator."""
    checkpoint: str

    def tensors(self, roots: Sequence[str]) -> Tensors:
        return Tensors(self.transport.name, self.checkpoint, tuple(roots))


@dataclass
class Tally:
    """How far it is."""

    total_bytes: int
    done_bytes: int = 0
    bytes_from: Counter[str] = field(default_factory=Counter)
    lies: Counter[str] = field(default_factory=Counter)
    began_s: float = field(default_factory=time.monotonic)


Told = Callable[[Tally], object]
"""Called after every part and every `LOOK_S`; what it raises ends the fetch."""


@dataclass
class _OpenPart:
    """A part of which chunks are under way."""

    order: Order
    data: bytearray
    first: int
    """Its place in the tensor."""
    num_asked: int = 0
    num_came: int = 0
    num_under_way: int = 0
    error: ShardnetError | None = None
    is_on_its_way: bool = False

    @property
    def is_given_up(self) -> bool:
        return self.error is not None or self.is_on_its_way

    @property
    def is_whole(self) -> bool:
        return self.num_came == len(self.data)


class _Asked(NamedTuple):
    """A chunk that is under way."""

    part: _OpenPart
    at: int
    """Where it begins in the part."""
    num_bytes: int
    under_way: int
    """See `FetchWindow.came`."""
    sent_s: float


class Fetch:
    """Of the tensors that one shard lacks."""

    def __init__(self, way: Way, store: Store, pace: FetchPace, parts: Mapping[str, TensorParts]) -> None:
        """Args: `parts` of each of these tensors, by its root; see `ask_for_parts`."""
        self._way, self._store, self._pace = way, store, pace
        self._parts = parts
        lacking = {root: store.begin(root, each) for root, each in parts.items()}
        self._errand = Errand(lacking)
        self._open: list[_OpenPart] = []
        self._windows: dict[str, FetchWindow] = defaultdict(FetchWindow)
        """By holder."""
        self._news: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        """What is to be done as something came, or was kept."""
        self._num_under_way = 0
        self._num_whole = 0
        """Parts that are being compared and kept."""
        self._came_s = time.monotonic()
        """When something last came."""
        self._tell("tensors_held", [root for root, lacks in lacking.items() if not lacks])
        self.tally = Tally(sum(cut(num_bytes_of(parts[root]))[part][1] for root in lacking for part in lacking[root]))

    def run(self, told: Told) -> None:
        """
        Raises:
            DamagedCheckpoint: what everybody sends of a tensor is wrong.
            ClusterError: nobody has it any more, or the coordinator does not answer.
            DoesNotFit: the disk is full.
        """
        try:
            with Errands("shardnet-keep") as keeper:
                while not self._errand.is_done:
                    self._find_holders()
                    self._ask()
                    self._take_news(keeper)
                    told(self.tally)
        finally:
            self._tell("fetch_over", self._errand.lacking)

    # ---- whom to ask ----

    def _find_holders(self) -> None:
        """Have the coordinator say who has the tensors of which nobody is known here."""
        by_avoided: dict[frozenset[str], list[str]] = defaultdict(list)
        for root in self._errand.nobody_known():
            by_avoided[self._errand.avoided_for(root)].append(root)
        for avoided, roots in by_avoided.items():
            for some in _by_number(roots):
                for each in self._holders_of(some, sorted(avoided)):
                    self._learn(each)

    def _holders_of(self, roots: Sequence[str], avoided: Sequence[str]) -> Sequence[TensorHolders]:
        way = self._way
        wanted = HoldersWanted(way.transport.name, way.checkpoint, tuple(roots), tuple(avoided))
        answer: Sequence[TensorHolders]
        answer = way.transport.call(way.source, "tensor_holders", wanted, timeout_s=ASK_S).result()
        return answer

    def _learn(self, found: TensorHolders) -> None:
        if self._errand.avoided_for(found.root).issuperset(found.holders):
            if self._errand.try_silent_again():
                return
            if self._errand.lies:
                liars = ", ".join(self._errand.lies)
                raise DamagedCheckpoint(
                    f"What {liars} sends of the tensor {found.root[:16]} is damaged. Download the model again there."
                )
            raise ClusterError(f"Nobody gives the tensor {found.root[:16]} any more. Load the model again.")
        self._errand.learn(found.root, found.holders)

    # ---- asking ----

    def _ask(self) -> None:
        """Send as many requests as may be under way."""
        while self._num_under_way < MOST_CHUNKS and self._num_whole < MOST_WHOLE:
            part = self._part_to_ask()
            if part is None:
                return
            window = self._windows[part.order.holder]
            size = min(window.chunk_bytes, len(part.data) - part.num_asked)
            if not window.is_open_for(size) or not self._pace.take(size, time.monotonic()):
                return
            self._send(part, size)

    def _send(self, part: _OpenPart, size: int) -> None:
        holder = part.order.holder
        wanted = ChunkWanted(self._way.checkpoint, part.order.root, part.first + part.num_asked, size)
        asked = _Asked(part, part.num_asked, size, self._windows[holder].ask(size), time.monotonic())
        part.num_asked += size
        part.num_under_way += 1
        self._num_under_way += 1
        answer = self._way.transport.call(holder, "weights_chunk", wanted, timeout_s=CHUNK_S)
        answer.add_done_callback(partial(self._hear, asked))

    def _part_to_ask(self) -> _OpenPart | None:
        for part in self._open:
            if part.num_asked < len(part.data) and not self._is_given_up(part):
                return part
        order = self._errand.next_order()
        if order is None:
            return None
        first, size = cut(num_bytes_of(self._parts[order.root]))[order.part]
        self._open.append(_OpenPart(order, bytearray(size), first))
        return self._open[-1]

    def _is_given_up(self, part: _OpenPart) -> bool:
        return part.is_given_up or part.order.holder in self._errand.given_up

    def _hear(self, asked: _Asked, answer: Future[bytes]) -> None:
        """On a thread of the network."""
        self._news.put(partial(self._take, asked, time.monotonic(), answer))

    # ---- what comes ----

    def _take_news(self, keeper: Errands) -> None:
        """Wait for some, and take all that are there; no longer than until there is something else to do."""
        pause_s = self._pace.wait_s(time.monotonic()) if self._num_under_way < MOST_CHUNKS else LOOK_S
        waits = self._errand.waited_for()
        for take in self._next_news(min(LOOK_S, pause_s) if pause_s > 0 else LOOK_S):
            take()
        for part in [part for part in self._open if part.num_under_way == 0]:
            if part.is_whole or self._is_given_up(part):
                self._open.remove(part)
                self._settle(part, keeper)
        if not waits:
            return
        if time.monotonic() - self._came_s > STALLED_S:
            self._came_s = time.monotonic()
            for holder in waits:
                self._errand.give_up(holder)
        if self._num_under_way == 0:
            self._errand.look_again()

    def _next_news(self, wait_s: float) -> Iterator[Callable[[], object]]:
        try:
            yield self._news.get(timeout=wait_s)
            while True:
                yield self._news.get_nowait()
        except queue.Empty:
            return

    def _take(self, asked: _Asked, came_s: float, answer: Future[bytes]) -> None:
        part, at, size, window = asked.part, asked.at, asked.num_bytes, self._windows[asked.part.order.holder]
        part.num_under_way -= 1
        self._num_under_way -= 1
        try:
            data = answer.result()
        except ShardnetError as error:
            data, part.error = b"", error
        if isinstance(data, bytes) and len(data) == size:
            part.data[at : at + size] = data
            part.num_came += size
            self._came_s = came_s
            window.came(size, asked.under_way, came_s - asked.sent_s, came_s)
        else:
            window.failed(size)
            part.is_on_its_way = data == b""
            part.error = part.error or _nothing_of_the_kind(part, data)

    def _settle(self, part: _OpenPart, keeper: Errands) -> None:
        """A part came, or did not."""
        order = part.order
        if isinstance(part.error, DeviceLost):
            self._errand.was_lost(order)
        elif isinstance(part.error, CallTimeout):
            self._errand.was_silent(order)
        elif part.error is not None:
            self._errand.was_refused(order)
        elif part.is_on_its_way:
            self._errand.is_on_its_way(order)
        elif not part.is_whole:
            self._errand.was_dropped(order)
        else:
            self._num_whole += 1
            keeper.do(partial(self._keep, part))

    def _keep(self, part: _OpenPart) -> None:
        """On the thread for that."""
        kept: Future[bool] = Future()
        do_for(kept, partial(self._store.write, part.order.root, part.order.part, memoryview(part.data)))
        self._news.put(partial(self._take_kept, part, kept))

    def _take_kept(self, part: _OpenPart, kept: Future[bool]) -> None:
        self._num_whole -= 1
        order = part.order
        if not kept.result():
            self._errand.was_damaged(order)
            self.tally.lies[order.holder] += 1
            return
        self._errand.came(order)
        self.tally.done_bytes += len(part.data)
        self.tally.bytes_from[order.holder] += len(part.data)
        if self._store.is_whole(order.root):
            self._tell("tensors_held", [order.root])

    def _tell(self, endpoint: str, roots: Sequence[str]) -> None:
        for some in _by_number(roots):
            self._way.transport.post(self._way.source, endpoint, self._way.tensors(some))


def _nothing_of_the_kind(part: _OpenPart, data: object) -> ShardnetError | None:
    """What is wrong with an answer that holds other than was asked for; None where it only holds nothing yet."""
    return None if data == b"" else DamagedCheckpoint(f"{part.order.holder} sends what nobody has asked for.")


def ask_for_parts(way: Way, store: Store, roots: Sequence[str]) -> dict[str, TensorParts]:
    """What these tensors are made of: as it is known here, or as the coordinator says, which `Store.begin` checks.

    Raises:
        ShardnetError: it does not answer, or does not know.
    """
    known = {root: parts for root in roots if (parts := store.parts_of(root)) is not None}
    for some in _by_number([root for root in roots if root not in known]):
        answer = way.transport.call(way.source, "tensor_parts", way.tensors(some), timeout_s=ASK_S).result()
        known |= dict(zip(some, answer, strict=True))
    return {root: known[root] for root in roots}


def _by_number(roots: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(roots), MOST_ROOTS):
        yield roots[first : first + MOST_ROOTS]
