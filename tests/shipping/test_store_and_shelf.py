"""What was fetched, as it lies on the disk; and that others get of it what they may have, and nothing else."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from shipped_tensors import tensor

from shardnet.errors import BadRequest, DamagedCheckpoint, DoesNotFit, ModelNotFound
from shardnet.loader.parts import PART_BYTES, checkpoint_name
from shardnet.shipping.courtesy import LEAD_S, Courtesy
from shardnet.shipping.shelf import Shelf
from shardnet.shipping.store import MOST_LISTS, Store
from shardnet.transport.shipping_messages import CheckpointList, ChunkWanted, TensorParts

LARGE = tensor(1, 2 * PART_BYTES + 1000)


def part_of(data: bytes, part: int) -> memoryview:
    return memoryview(data)[part * PART_BYTES : (part + 1) * PART_BYTES]


@contextmanager
def store_in(folder: Path, most_bytes: int | None = None) -> Iterator[Store]:
    store = Store("phone", folder, most_bytes)
    try:
        yield store
    finally:
        store.close()


def filled(store: Store, root: str, parts: TensorParts, data: bytes) -> None:
    for part in store.begin(root, parts):
        assert store.write(root, part, part_of(data, part))


def test_parts_that_came_are_there_after_the_process_ended(tmp_path: Path) -> None:
    root, parts, data = LARGE
    with store_in(tmp_path) as store:
        assert store.begin(root, parts) == [0, 1, 2]
        assert store.write(root, 1, part_of(data, 1))
        assert not store.is_whole(root) and store.place_of(root, 0) is None
    with store_in(tmp_path) as again:
        assert again.begin(root, parts) == [0, 2]
        assert not again.write(root, 0, part_of(data, 1)), "another part"
        filled(again, root, parts, data)
        assert again.is_whole(root)
    with store_in(tmp_path) as third:
        assert third.is_whole(root) and third.begin(root, parts) == []


def test_what_changed_on_the_disk_is_fetched_again(tmp_path: Path) -> None:
    root, parts, data = LARGE
    with store_in(tmp_path) as store:
        filled(store, root, parts, data)
        [path] = tmp_path.glob("tensors/*.bin")
        with path.open("r+b") as file:
            file.seek(PART_BYTES + 5)
            file.write(b"\0\1\2")
        assert not store.is_whole(root)
        assert store.begin(root, parts) == [1]


def test_what_is_not_what_its_name_says_is_not_taken(tmp_path: Path) -> None:
    root, parts, _ = LARGE
    with store_in(tmp_path) as store:
        for wrong in (
            parts._replace(hashes=parts.hashes[:2]),
            parts._replace(dtype="F99"),
            parts._replace(shape=(-1,)),
            parts._replace(shape=(2**60, 2**60)),
            parts._replace(hashes=(*parts.hashes[:2], "0" * 64)),
        ):
            with pytest.raises(DamagedCheckpoint):
                store.begin(root, wrong)
        what = CheckpointList(b"{}", {"x": root})
        with pytest.raises(DamagedCheckpoint, match="is another one"):
            store.enter("0" * 64, what)
        name = checkpoint_name(*what)
        store.enter(name, what)
        assert store.roots(name) == {"x": root} and store.folder_of(name) is not None
        assert store.roots("../" + name) is None and store.folder_of("../" * 10) is None
        assert store.parts_of("../tensors/" + root) is None
    assert not [path for path in tmp_path.rglob("*.bin") if path.stat().st_blocks]


def test_what_was_used_least_lately_goes_and_what_is_in_use_stays(tmp_path: Path) -> None:
    small = [tensor(seed, 8192) for seed in range(4)]
    with store_in(tmp_path, most_bytes=4 * 8192) as store:
        for number, (root, parts, data) in enumerate(small):
            filled(store, root, parts, data)
            os.utime(tmp_path / "tensors" / f"{root}.json", (number, number))
        roots = [root for root, _, _ in small]
        with store.kept(roots[1:2]):
            store.make_room(8192, {roots[0]})
        assert [store.is_whole(root) for root in roots] == [True, True, False, True]
        with pytest.raises(DoesNotFit, match=r"larger --cache-gib"):
            store.make_room(10 * 8192, set())
        assert [store.is_whole(root) for root in roots] == [True, True, False, True], "nothing goes in vain"


def test_a_disk_that_is_full_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, parts, data = LARGE
    with store_in(tmp_path) as store:
        store.begin(root, parts)

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(
            DoesNotFit, match=r"^phone cannot keep weights on its disk: No space left on device\. Make room"
        ):
            store.write(root, 0, part_of(data, 0))
        with pytest.raises(DoesNotFit, match=r"^phone is to fetch \d+ MiB of weights, and .* Make room there\.$"):
            store.make_room(2**60, set())


def test_two_processes_with_one_cache_do_not_fetch_the_same(tmp_path: Path) -> None:
    """A process may lock what it has locked itself, so another one is started."""
    root, _, _ = LARGE
    with store_in(tmp_path) as store:
        assert store.claim(root)
        if (child := os.fork()) == 0:
            os._exit(int(Store("phone", tmp_path, None).claim(root)))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        store.release(root)
        if (child := os.fork()) == 0:
            os._exit(int(Store("phone", tmp_path, None).claim(root)))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_what_one_process_is_busy_with_no_other_removes(tmp_path: Path) -> None:
    """What was evicted in the midst of a fetch ended it with an AssertionError, and what had come was lost."""
    root, parts, data = LARGE
    other, other_parts, _ = tensor(2, 2 * PART_BYTES)
    room_bytes = 4 * PART_BYTES

    def fits_in_another_process() -> bool:
        if (child := os.fork()) == 0:
            with store_in(tmp_path, room_bytes) as store, store.kept([other]):
                store.begin(other, other_parts)
                try:
                    store.make_room(2 * PART_BYTES, set())
                except DoesNotFit:
                    os._exit(1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    with store_in(tmp_path, room_bytes) as store:
        with store.kept([root, root]):
            with store.kept([root]):
                assert store.begin(root, parts) == [0, 1, 2]
                store.write(root, 0, part_of(data, 0))
            assert not fits_in_another_process(), "more is to come than the cache may hold"
            filled(store, root, parts, data)
            assert not fits_in_another_process()
        assert store.is_whole(root)
        assert fits_in_another_process()
        assert not store.is_whole(root)


def test_two_fetches_at_once_share_the_room(tmp_path: Path) -> None:
    """Each took all that was free, and the cache grew beyond its limit."""
    first, second = tensor(1, PART_BYTES), tensor(2, PART_BYTES)
    with store_in(tmp_path, PART_BYTES + 4096) as store, store.kept([first[0], second[0]]):
        store.begin(*first[:2])
        store.make_room(PART_BYTES, set())
        store.begin(*second[:2])
        with pytest.raises(DoesNotFit):
            store.make_room(PART_BYTES, set())


def test_two_who_learn_of_a_checkpoint_at_once_are_not_in_each_others_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one found the half that it had written gone, and called the disk full."""
    what = CheckpointList(b"{}", {})
    name = checkpoint_name(*what)
    replace = os.replace
    with store_in(tmp_path) as store, store_in(tmp_path) as other:

        def meanwhile(half: str, whole: Path) -> None:
            monkeypatch.setattr(os, "replace", replace)
            other.enter(name, what)
            replace(half, whole)

        monkeypatch.setattr(os, "replace", meanwhile)
        store.enter(name, what)
        assert store.roots(name) == {} and store.folder_of(name) is not None


def test_a_tensor_costs_no_look_at_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where experts are thousands, looking for leftovers at each took minutes."""
    with store_in(tmp_path) as store:
        monkeypatch.setattr(Path, "glob", None)
        filled(store, *tensor(1, 10))
        assert store.is_whole(tensor(1, 10)[0])


def test_others_get_parts_that_are_there_of_what_was_opened(tmp_path: Path) -> None:
    root, parts, data = LARGE
    other, *_ = tensor(2, 100)
    coming = {root}
    with store_in(tmp_path) as store:
        shelf = Shelf("phone", store, coming.__contains__)
        for wanted in (ChunkWanted("C", root, 0, 10), ChunkWanted("../C", root, 0, 10)):
            with pytest.raises(ModelNotFound, match="phone has no tensor"):
                shelf.chunk(wanted).result(60)
        shelf.open_fetched("C", frozenset([root]))
        store.begin(root, parts)
        assert shelf.chunk(ChunkWanted("C", root, 0, 10)).result(60) == b"", "not there yet"
        store.write(root, 1, part_of(data, 1))
        at = PART_BYTES + 7
        assert shelf.chunk(ChunkWanted("C", root, at, 10)).result(60) == data[at : at + 10]
        for wanted in (ChunkWanted("C", other, 0, 10), ChunkWanted("../C", root, 0, 10)):
            with pytest.raises(ModelNotFound):
                shelf.chunk(wanted).result(60)
        shelf.close()


def test_who_does_not_fetch_it_any_more_says_so_at_once(tmp_path: Path) -> None:
    """Others waited a minute for a device whose own fetch had failed, or that had let the tensor go."""
    root, parts, data = LARGE
    with store_in(tmp_path) as store:
        shelf = Shelf("phone", store, lambda root: False)
        shelf.open_fetched("C", frozenset([root]))
        with pytest.raises(ModelNotFound, match="phone has no tensor"):
            shelf.chunk(ChunkWanted("C", root, 0, 10)).result(60)
        store.begin(root, parts)
        store.write(root, 0, part_of(data, 0))
        assert shelf.chunk(ChunkWanted("C", root, 0, 10)).result(60) == data[:10], "what is there may be had"
        with pytest.raises(ModelNotFound, match="phone has no tensor"):
            shelf.chunk(ChunkWanted("C", root, PART_BYTES, 10)).result(60)
        shelf.close()


def test_who_asks_when_it_is_closed_is_told(tmp_path: Path) -> None:
    """The answer never came, and a thread was left."""
    root, parts, data = LARGE
    with store_in(tmp_path) as store:
        filled(store, root, parts, data)
        shelf = Shelf("phone", store)
        shelf.open_fetched("C", frozenset([root]))
        shelf.close()
        with pytest.raises(ModelNotFound, match="phone has no tensor"):
            shelf.chunk(ChunkWanted("C", root, 0, 10)).result(60)


def test_nobody_on_the_network_waits_for_what_is_known_of_a_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, parts, data = LARGE
    is_read = threading.Event()
    with store_in(tmp_path) as store:
        filled(store, root, parts, data)
        place_of = store.place_of

        def slow(root: str, part: int) -> Any:
            assert is_read.wait(60)
            return place_of(root, part)

        monkeypatch.setattr(store, "place_of", slow)
        shelf = Shelf("phone", store)
        shelf.open_fetched("C", frozenset([root]))
        asked = shelf.chunk(ChunkWanted("C", root, 0, 10))
        assert not asked.done()
        is_read.set()
        assert asked.result(60) == data[:10]
        shelf.close()


def test_nothing_is_given_before_a_step_that_is_about_to_end(tmp_path: Path) -> None:
    root, parts, data = LARGE
    with store_in(tmp_path) as store:
        filled(store, root, parts, data)
        courtesy = Courtesy()
        courtesy.step_begins(0.0)
        courtesy.step_ends(30.0)
        shelf = Shelf("phone", store, courtesy=courtesy)
        shelf.open_fetched("C", frozenset([root]))
        ends_s = time.monotonic() + LEAD_S / 2
        courtesy.step_begins(ends_s - 30.0)
        assert shelf.chunk(ChunkWanted("C", root, 0, 10)).result() == data[:10]
        assert time.monotonic() >= ends_s
        shelf.close()


@pytest.mark.parametrize(
    ("offset", "num_bytes"),
    [
        (0, 0),
        (0, -1),
        (-1, 1),
        (0, (1 << 20) + 1),
        (PART_BYTES - 1, 2),
        (2 * PART_BYTES + 999, 2),
        (3 * PART_BYTES, 1),
        (1 << 62, 1 << 20),
    ],
)
def test_what_is_not_within_a_part_is_refused(tmp_path: Path, offset: int, num_bytes: int) -> None:
    root, parts, data = LARGE
    with store_in(tmp_path) as store:
        filled(store, root, parts, data)
        shelf = Shelf("phone", store)
        shelf.open_fetched("C", frozenset([root]))
        with pytest.raises(BadRequest):
            shelf.chunk(ChunkWanted("C", root, offset, num_bytes)).result(60)
        shelf.close()


def test_few_checkpoints_are_remembered(tmp_path: Path) -> None:
    """Or a member could fill the disk with lists."""
    with store_in(tmp_path) as store:
        names = []
        for number in range(MOST_LISTS + 3):
            what = CheckpointList(f"{number}".encode(), {})
            names.append(checkpoint_name(*what))
            store.enter(names[-1], what)
            os.utime(tmp_path / "checkpoints" / names[-1], (number, number))
        assert [store.roots(name) is not None for name in names] == [False] * 3 + [True] * MOST_LISTS


def test_a_list_that_another_process_has_just_forgotten_is_no_full_disk(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        gone = tmp_path / "checkpoints" / "gone"
        gone.parent.mkdir()
        gone.symlink_to(tmp_path / "nowhere")  # it is listed, and is not there
        what = CheckpointList(b"{}", {})
        store.enter(checkpoint_name(*what), what)
        assert store.roots(checkpoint_name(*what)) == {}
