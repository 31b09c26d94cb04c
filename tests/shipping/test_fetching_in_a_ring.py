"""Whole devices in one process that have no copy of a model: they fetch their own units, and no other bytes."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from in_process_ring import alone
from tiny_gguf import write_gguf
from tiny_text_model import save_text_model

from shardnet.cluster.cluster import COORDINATOR, Cluster
from shardnet.device.worker import Worker
from shardnet.errors import DamagedCheckpoint, DoesNotFit, ShardnetError
from shardnet.loader import enter, fingerprint, open_model
from shardnet.process.threads import on_thread
from shardnet.progress import silent
from shardnet.shipping.limits import NO_LIMITS, FetchLimits
from shardnet.shipping.shelf import Shelf
from shardnet.shipping.store import Store
from shardnet.transport import InProcessNetwork
from shardnet.transport.shipping_messages import ChunkWanted

PROMPT = [5, 6, 7, 8, 9]
NUM_TOKENS = 8


@pytest.fixture(autouse=True)
def far_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device is on a machine of its own: no folder is shared."""
    monkeypatch.setattr("shardnet.loader.copy_index._shared_folder", lambda: None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("shipped"))


class Shipped:
    """A cluster whose devices have cache folders of their own, and what each member has given of weights."""

    def __init__(self, folder: Path, names: str, limits: FetchLimits = NO_LIMITS) -> None:
        self._folder = folder
        self._limits = limits
        self._resources = ExitStack()
        self.network = self._resources.enter_context(InProcessNetwork())
        self.given: Counter[tuple[str, str, int]] = Counter()
        """How often each (member, root, offset) was asked for."""
        self.bytes_from: Counter[str] = Counter()
        self.workers: dict[str, Worker] = {}
        for name in names:
            self.join(name)
        coordinator = self._resources.enter_context(self.network.join(COORDINATOR))
        self.cluster = self._resources.enter_context(Cluster(coordinator, tuple(names), ExitStack(), None))
        self.options: dict[str, Any] = {
            "dtype": "float32",
            "cache_dir": folder / "coordinator",
            "progress": silent,
            "standby": "none",
        }

    def join(self, name: str) -> Worker:
        worker = Worker(1, self.cache(name), fetch_limits=self._limits)
        self.workers[name] = self._resources.enter_context(worker)
        worker.attach(self.network.join(name))
        return worker

    def cache(self, name: str) -> Path:
        return self._folder / name

    def fetched(self, name: str) -> int:
        """Bytes of weights in a device's cache folder."""
        return sum(path.stat().st_size for path in self.cache(name).glob("fetched/tensors/*.bin"))

    def close(self) -> None:
        self._resources.close()


@contextmanager
def shipped(folder: Path, names: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[Shipped]:
    """See `Shipped`."""
    watched: list[Shipped] = []
    chunk = Shelf.chunk

    def counted(self: Shelf, wanted: ChunkWanted) -> Any:
        answer = chunk(self, wanted)
        answer.add_done_callback(lambda given: note(self._name, wanted, given))
        return answer

    def note(member: str, wanted: ChunkWanted, given: Any) -> None:
        if given.exception() is None and given.result():
            watched[0].given[member, wanted.root, wanted.offset] += 1
            watched[0].bytes_from[member] += len(given.result())

    monkeypatch.setattr(Shelf, "chunk", counted)
    cluster = Shipped(folder, names, **options)
    watched.append(cluster)
    try:
        yield cluster
    finally:
        cluster.close()


def answer(loaded: Any) -> list[int]:
    [result] = loaded.generate([PROMPT], max_new_tokens=NUM_TOKENS)
    tokens: list[int] = result.token_ids
    return tokens


def unit_bytes(model: Path, cache_dir: Path, first: int, last: int) -> int:
    """Of the stored tensors of some units, each once."""
    files = open_model(str(model), "float32")
    copy = fingerprint(files.copy, cache_dir)
    assert copy is not None
    files = files.under(copy)
    places = {place.root: place for place in files.tensors_of(first, last).values()}
    return sum(place.num_bytes for place in places.values())


def test_devices_without_a_copy_fetch_their_own_units_and_no_other_bytes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a device used to be ModelNotFound."""
    shown: list[tuple[str, float, float]] = []
    with shipped(tmp_path, "ab", monkeypatch) as ring:
        options = ring.options | {"progress": lambda *what: shown.append(what)}
        with ring.cluster.load(model, split=[3, 3], **options) as loaded:
            assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]
            events = [event for event in loaded.events if event.event == "fetched"]
        assert ring.fetched("a") == unit_bytes(model, tmp_path, 0, 2)
        assert ring.fetched("b") == unit_bytes(model, tmp_path, 3, 5)
        assert set(ring.given.values()) == {1}, "nothing was sent twice"
        assert sum(ring.bytes_from.values()) == ring.fetched("a") + ring.fetched("b")
    assert {event.device for event in events} == {"a", "b"}
    assert "a has fetched units 0-2: " in " ".join(event.text for event in events)
    ends = [what for what, done, total in shown if "fetching units 3-5" in what and done == total]
    assert ends and "MB from coordinator" in ends[-1]


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_of_a_gguf_file_its_blocks_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """As they are in the file: the device unpacks them, and knows by the lists how."""
    model = write_gguf(tmp_path / "tiny.gguf", "llama", kind)
    with shipped(tmp_path, "ab", monkeypatch) as ring:
        with ring.cluster.load(model, split=[2, 2], **ring.options) as loaded:
            assert answer(loaded) == alone(tmp_path, [PROMPT], NUM_TOKENS, gguf_file=model.name)[0]
        whole = unit_bytes(model, tmp_path, 0, 3)
        assert ring.fetched("a") == unit_bytes(model, tmp_path, 0, 1) < whole < model.stat().st_size
        assert ring.fetched("b") == unit_bytes(model, tmp_path, 2, 3)


def test_a_checkpoint_of_4_bits_is_made_of_what_is_fetched_and_is_fetched_itself(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shipped(tmp_path, "ab", monkeypatch) as ring:
        cache = {"cache_dir": tmp_path / "coordinator", "progress": silent}
        made = ring.cluster.quantise(
            model, tmp_path / "made", weights="int4-g64", text="A b. " * 90, split=[3, 3], **cache
        )
        fetched = {name: ring.fetched(name) for name in "ab"}
        assert fetched == {"a": unit_bytes(model, tmp_path, 0, 2), "b": unit_bytes(model, tmp_path, 3, 4)}
        answers = []
        for split in ([3, 3], [1, 5]):
            with ring.cluster.load(made, split=split, weights="int4-g64", **ring.options) as loaded:
                answers.append(answer(loaded))
            if split == [3, 3]:
                assert (
                    ring.fetched("a") - fetched["a"]
                    < unit_bytes(made, tmp_path, 0, 2)
                    <= unit_bytes(model, tmp_path, 0, 2)
                )
    assert answers[0] == answers[1]


def test_what_came_is_not_fetched_again(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is loaded again by other processes with the same cache folders."""
    with shipped(tmp_path, "ab", monkeypatch) as ring, ring.cluster.load(model, split=[3, 3], **ring.options):
        assert ring.bytes_from["coordinator"] > 0
    with shipped(tmp_path, "ab", monkeypatch) as ring, ring.cluster.load(model, split=[3, 3], **ring.options) as loaded:
        assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]
        assert not ring.bytes_from


def test_a_device_that_ended_in_the_middle_goes_on_where_it_was(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what had come, nothing is sent again but the parts that were under way."""
    total = unit_bytes(model, tmp_path, 0, 5)
    kept: list[int] = []
    with shipped(tmp_path, "a", monkeypatch) as ring:
        write = Store.write

        def until_most_is_there(self: Store, root: str, part: int, data: memoryview) -> bool:
            if sum(kept) > 0.6 * total:
                raise ShardnetError("killed")
            kept.append(len(data))
            return write(self, root, part, data)

        with monkeypatch.context() as patch:
            patch.setattr(Store, "write", until_most_is_there)
            with pytest.raises(ShardnetError, match="killed"):
                ring.cluster.load(model, split=[6], **ring.options)
    assert 0.6 * total < sum(kept) < total
    with shipped(tmp_path, "a", monkeypatch) as ring, ring.cluster.load(model, split=[6], **ring.options) as loaded:
        assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]
        assert ring.bytes_from["coordinator"] <= 0.45 * total


def test_a_third_device_gets_its_units_from_another_member(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator sends nothing twice."""
    with shipped(tmp_path, "ab", monkeypatch) as ring:
        with ring.cluster.load(model, split=[3, 3], **ring.options):
            before = ring.bytes_from["coordinator"]
        ring.join("c")
        ring.cluster.take_in("c")
        monkeypatch.setattr(ring.cluster, "devices", ("c",))
        with ring.cluster.load(model, split=[6], **ring.options) as loaded:
            assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]
        assert ring.bytes_from["coordinator"] == before
        assert ring.bytes_from["a"] + ring.bytes_from["b"] >= ring.fetched("c")
        assert ring.bytes_from["a"] > 0 < ring.bytes_from["b"]


def test_two_that_fetch_the_same_at_the_same_time_share(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator sends each byte to one of them, and that one to the other."""
    with shipped(tmp_path, "ab", monkeypatch) as ring, ExitStack() as stack:
        loads = []
        for name in "ab":
            monkeypatch.setattr(ring.cluster, "devices", (name,))
            loads.append(on_thread("load", partial(ring.cluster.load, model, split=[6], **ring.options)))
            started(ring, name)
        for load in loads:
            assert answer(stack.enter_context(load.result())) == alone(model, [PROMPT], NUM_TOKENS)[0]
        assert ring.bytes_from["coordinator"] == unit_bytes(model, tmp_path, 0, 5)


def started(ring: Shipped, name: str) -> None:
    """Wait until a device has begun to fetch."""
    while not any(ring.cache(name).glob("fetched/tensors/*.json")):
        time.sleep(0.01)


def test_a_flipped_byte_is_found_and_fetched_from_another(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shipped(tmp_path, "ab", monkeypatch) as ring:
        with ring.cluster.load(model, split=[5, 1], **ring.options):
            pass
        largest = max(ring.cache("a").glob("fetched/tensors/*.bin"), key=lambda path: path.stat().st_size)
        flip(largest)
        monkeypatch.setattr(ring.cluster, "devices", ("b",))
        before = ring.bytes_from["coordinator"]
        with ring.cluster.load(model, split=[6], **ring.options) as loaded:
            assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]
            [event] = [event for event in loaded.events if event.event == "fetched"]
        assert "what a sent was damaged in part, and was fetched anew" in event.text
        assert ring.bytes_from["coordinator"] - before == largest.stat().st_size, "one part, from who has it right"


def flip(path: Path) -> None:
    """Change one byte, and nothing that tells of it."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(100)
        byte = file.read(1)[0]
        file.seek(100)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_byte_that_is_wrong_everywhere_ends_the_load(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    shutil.copytree(model, own)
    copy = fingerprint(open_model(str(own), "float32").copy, tmp_path / "coordinator")
    assert copy is not None
    weights = own / "model.safetensors"
    with shipped(tmp_path, "a", monkeypatch) as ring:
        monkeypatch.setattr("shardnet.loader.copies.stamp_of", lambda path: copy.stamps[str(weights)])
        monkeypatch.setattr("shardnet.loader.hashing.stamp_of", lambda path: copy.stamps[str(weights)])
        with weights.open("r+b") as file:
            file.seek(-8, os.SEEK_END)
            file.write(b"damaged!")
        with pytest.raises(DamagedCheckpoint, match=r"What coordinator sends of the tensor \w+ is damaged"):
            ring.cluster.load(own, split=[6], **ring.options)


def test_what_a_loss_leaves_is_fetched_by_whoever_takes_it_over(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shipped(tmp_path, "abc", monkeypatch) as ring:
        options = ring.options | {"standby": "cold"}
        with ring.cluster.load(model, split=[2, 2, 2], **options) as loaded:
            assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]
            ring.network.kill("b")
            assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]
            fetched = {event.device for event in loaded.events if event.event == "fetched" and event.plan_version > 1}
        assert fetched <= {"a", "c"} and fetched


def test_units_that_are_kept_ready_come_from_who_has_them(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of them is sent by the coordinator."""
    monkeypatch.setattr("shardnet.cluster.standby.QUIET_S", 0.0)
    with shipped(tmp_path, "ab", monkeypatch) as ring:
        options = ring.options | {"standby": "warm"}
        with ring.cluster.load(model, split=[3, 3], **options) as loaded:
            whole = unit_bytes(model, tmp_path, 0, 5)
            while len([event for event in loaded.events if event.event == "standby"]) < 2:
                time.sleep(0.01)
            assert ring.fetched("a") == ring.fetched("b") == whole
            assert ring.bytes_from["coordinator"] < 1.5 * whole
            ring.network.kill("b")
            assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]


def test_a_device_that_joins_later_fetches_too(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with shipped(tmp_path, "ab", monkeypatch) as ring:
        options = ring.options | {"standby": "cold"}
        with ring.cluster.load(model, split=[3, 3], **options) as loaded:
            ring.join("c")
            ring.cluster.take_in("c")
            ring.cluster._newcomers.settle(60)
            ring.network.kill("b")
            ring.network.kill("a")
            assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]
            assert ring.fetched("c") == unit_bytes(model, tmp_path, 0, 5)


def test_a_cache_that_is_too_small_is_one_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = FetchLimits(cache_bytes=100_000)
    with (
        shipped(tmp_path, "a", monkeypatch, limits=limits) as ring,
        pytest.raises(DoesNotFit, match=r"^a is to fetch 1 MiB of weights, and .* or give it a larger --cache-gib\.$"),
    ):
        ring.cluster.load(model, split=[6], **ring.options)


def test_a_device_with_a_copy_gives_of_it(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is nearer than the coordinator, which sends nothing."""
    shutil.copytree(model, tmp_path / "copy of a")
    copy = fingerprint(open_model(str(tmp_path / "copy of a"), "float32").copy, tmp_path / "a")
    assert copy is not None
    enter(copy, tmp_path / "a")
    with shipped(tmp_path, "ab", monkeypatch) as ring, ring.cluster.load(model, split=[3, 3], **ring.options) as loaded:
        assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]
        assert ring.bytes_from == {"a": ring.fetched("b")} and ring.fetched("a") == 0


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_device_whose_copy_has_become_another_model_fetches(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """It was told to download the old one again, for good, and others were sent to it for what it had no more."""
    own = tmp_path / "copy of a"
    shutil.copytree(model, own)
    copy = fingerprint(open_model(str(own), "float32").copy, tmp_path / "a")
    assert copy is not None
    enter(copy, tmp_path / "a")
    if file == "config.json":
        (own / file).write_text((own / file).read_text() + " ")
    else:
        first = min(place.offset for place in copy.tensors.values())
        content = (own / file).read_bytes()
        (own / file).write_bytes(content[:first] + bytes(len(content) - first))
    os.utime(own / "model.safetensors")
    with shipped(tmp_path, "ab", monkeypatch) as ring, ring.cluster.load(model, split=[3, 3], **ring.options) as loaded:
        assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]
        [event] = [event for event in loaded.events if event.event == "fetched" and event.device == "a"]
    assert "damaged" not in event.text and ring.fetched("a") == unit_bytes(model, tmp_path, 0, 2)


def test_a_copy_with_new_dates_is_a_copy(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(model, tmp_path / "copy of a")
    copy = fingerprint(open_model(str(tmp_path / "copy of a"), "float32").copy, tmp_path / "a")
    assert copy is not None
    enter(copy, tmp_path / "a")
    os.utime(tmp_path / "copy of a" / "model.safetensors")
    with shipped(tmp_path, "a", monkeypatch) as ring, ring.cluster.load(model, split=[6], **ring.options) as loaded:
        assert answer(loaded) == alone(model, [PROMPT], NUM_TOKENS)[0]
        assert not ring.bytes_from


def test_two_stages_of_one_device_fetch_nothing_twice(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shipped(tmp_path, "a", monkeypatch) as ring, ExitStack() as stack:
        loads = [
            on_thread("load", partial(ring.cluster.load, model, split=[6], kv_memory_bytes=10**6, **ring.options))
            for _ in range(2)
        ]
        for load in loads:
            assert answer(stack.enter_context(load.result())) == alone(model, [PROMPT], NUM_TOKENS)[0]
        assert ring.bytes_from == {"coordinator": unit_bytes(model, tmp_path, 0, 5)}
