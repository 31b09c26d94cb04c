"""One fetch, from members that answer late, not at all, or not any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from processes import wait_until
from shipped_tensors import tensor

from shardnet.errors import CallTimeout, ClusterError, ModelNotFound
from shardnet.loader.parts import PART_BYTES
from shardnet.shipping import fetching
from shardnet.shipping.errand import MOST_SILENCES
from shardnet.shipping.fetching import Fetch, Way
from shardnet.shipping.pace import FetchPace
from shardnet.shipping.store import Store
from shardnet.shipping.window import LEAST_BYTES, FetchWindow
from shardnet.transport import InProcessNetwork
from shardnet.transport.base import Transport
from shardnet.transport.shipping_messages import ChunkWanted, HoldersWanted, TensorHolders

ROOT, PARTS, DATA = tensor(1, 2 * PART_BYTES + 1000)
Answer = Callable[[ChunkWanted], "bytes | Future[bytes]"]


def right(wanted: ChunkWanted) -> bytes:
    return DATA[wanted.offset : wanted.offset + wanted.num_bytes]


def silent(wanted: ChunkWanted) -> bytes:
    """As if the time for it were over."""
    raise CallTimeout("it did not answer in time")


class OpenWindow(FetchWindow):
    """Lets so many bytes be under way, however long they take."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__()
        self._most_under_way = num_bytes

    def came(self, num_bytes: int, under_way: int, took_s: float, now_s: float) -> None:
        self.failed(num_bytes)


class Bench:
    """A phone that lacks a tensor, a laptop that names holders, and a tablet, which is nearer."""

    def __init__(self, folder: Path, network: InProcessNetwork) -> None:
        self.phone = network.join("phone")
        self.answers: dict[str, Answer] = {"laptop": right, "tablet": right}
        self.asked: dict[str, list[int]] = {"laptop": [], "tablet": []}
        """The offsets for which each was asked."""
        self.held: list[str] = []
        self.over: list[str] = []
        laptop, self.tablet = network.join("laptop"), network.join("tablet")
        laptop.expose("tensor_holders", self._holders)
        laptop.expose("tensors_held", lambda held: self.held.extend(held.roots))
        laptop.expose("fetch_over", lambda over: self.over.extend(over.roots))
        for member in (laptop, self.tablet):
            self._expose(member)
        self.store = Store("phone", folder, None)

    def _expose(self, member: Transport) -> None:
        def chunk(wanted: ChunkWanted) -> bytes | Future[bytes]:
            self.asked[member.name].append(wanted.offset)
            return self.answers[member.name](wanted)

        member.expose("weights_chunk", chunk)

    def _holders(self, wanted: HoldersWanted) -> tuple[TensorHolders, ...]:
        left = tuple(holder for holder in ("tablet", "laptop") if holder not in wanted.avoided)
        return (TensorHolders(ROOT, left, is_coming=False),)

    def fetch(self) -> None:
        way = Way(self.phone, "laptop", "C")
        Fetch(way, self.store, FetchPace(None), {ROOT: PARTS}).run(lambda tally: None)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with InProcessNetwork() as network:
        bench = Bench(tmp_path, network)
        yield bench
        bench.store.close()


def test_who_did_not_answer_in_time_is_asked_for_nothing_while_others_have_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked for the rest of each part that it had begun with, half a minute for each chunk."""
    end_of_first: Future[bytes] = Future()
    late: list[tuple[ChunkWanted, Future[bytes]]] = []
    asked_before: list[int] = []

    def sticks(wanted: ChunkWanted) -> bytes | Future[bytes]:
        if wanted.offset + wanted.num_bytes < PART_BYTES:
            return right(wanted)
        if wanted.offset < PART_BYTES:
            return end_of_first
        late.append((wanted, Future()))
        if len(late) == 3:
            end_of_first.set_exception(CallTimeout("it did not answer in time"))
        return late[-1][1]

    def instead(wanted: ChunkWanted) -> bytes:
        """The other one is still there, and answers what it was asked for of the second part."""
        if not asked_before:
            asked_before.append(len(bench.asked["tablet"]))
            for each, answer in late:
                answer.set_result(right(each))
        return right(wanted)

    monkeypatch.setattr(fetching, "FetchWindow", lambda: OpenWindow(4 * LEAST_BYTES))
    bench.answers |= {"tablet": sticks, "laptop": instead}
    bench.fetch()
    assert bench.store.is_whole(ROOT)
    assert len(late) == 3, "what was under way when it stuck"
    assert asked_before == [len(bench.asked["tablet"])], "no more of the part that it had begun with"
    wait_until(lambda: bench.held == [ROOT])


def test_who_alone_has_it_and_was_silent_once_is_asked_again(bench: Bench) -> None:
    """The load ended, and said that nobody gives the tensor any more."""
    bench.tablet.close()
    bench.answers["laptop"] = lambda wanted: (right if len(bench.asked["laptop"]) > 1 else silent)(wanted)
    bench.fetch()
    assert bench.store.is_whole(ROOT)


def test_who_alone_has_it_and_never_answers_ends_the_load(bench: Bench) -> None:
    bench.tablet.close()
    bench.answers["laptop"] = silent
    with pytest.raises(ClusterError, match="Nobody gives the tensor"):
        bench.fetch()
    assert len(bench.asked["laptop"]) == MOST_SILENCES
    wait_until(lambda: bench.over == [ROOT])


def test_who_has_it_not_any_more_is_left_at_once(bench: Bench) -> None:
    """Such as one whose own fetch has failed: it was asked every 0.2 s, for a minute."""
    is_over = threading.Event()

    def gives_up(wanted: ChunkWanted) -> bytes:
        if not is_over.is_set():
            is_over.set()
            return b""
        raise ModelNotFound("tablet has no tensor for others.")

    bench.answers["tablet"] = gives_up
    bench.fetch()
    assert bench.store.is_whole(ROOT) and len(bench.asked["tablet"]) <= 2 * fetching.MOST_CHUNKS


def test_a_disk_that_fails_ends_the_fetch_and_leaves_no_thread(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bool:
        raise ClusterError("the disk is full")

    monkeypatch.setattr(bench.store, "write", full)
    with pytest.raises(ClusterError, match="the disk is full"):
        bench.fetch()
    assert not [thread for thread in threading.enumerate() if thread.name == "shardnet-keep"]
    wait_until(lambda: bench.over == [ROOT])
