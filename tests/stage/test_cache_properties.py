"""Whatever sessions do beside each other: every key that is read back is the session's own, and memory adds up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shardnet.errors import KVMemorySpent
from shardnet.models import BlockKV
from shardnet.models.buckets import buckets_of
from shardnet.models.kv import Segment
from shardnet.stage import rows as rows_module
from shardnet.stage.budget import MemoryBudget
from shardnet.stage.cache import KVCache
from shardnet.stage.extent import Kept
from shardnet.stage.session_cache import keep_together

BLOCKS = tuple(BlockKV(layer, 2, 3, 5) for layer in range(4))
KEPT = Kept(2, torch.float32, num_ids=1)
LIMIT_BYTES = 60 * (4 * 2 * 8 * len(BLOCKS) + 2 * KEPT.bytes_per_token)


def rows_of(session: int, layer: int, first: int, end: int, dim: int) -> torch.Tensor:
    """[2, t, dim] numbers that say to which session, block and token they belong."""
    places = torch.arange(first, end)[None, :, None] * 8 + torch.arange(dim)
    return (places + 10_000 * session + 1_000_000 * layer + 500_000 * torch.arange(2)[:, None, None]).float()


def kept_of(session: int, first: int, end: int, layer: int) -> torch.Tensor:
    """[t, 2] the same of what is kept behind a block."""
    return torch.stack([rows_of(session, layer, first, end, 1)[0, :, 0], torch.full((end - first,), float(layer))], 1)


class Caches(RuleBasedStateMachine):
    """Two caches of one budget, between which blocks and sessions move."""

    def __init__(self) -> None:
        super().__init__()
        rows_module.LEAST_ROWS = 16
        self.budget = MemoryBudget(LIMIT_BYTES)
        self.caches = [KVCache(blocks, torch.float32, self.budget, KEPT) for blocks in (BLOCKS[:3], BLOCKS[3:])]
        self.kept_from: list[dict[int, int]] = [{}, {}]
        """Of each cache by session: from where on what it has sent is kept."""
        self.next_session = 1

    def teardown(self) -> None:
        rows_module.LEAST_ROWS = 4096

    def session(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.caches[0]._sessions)))

    def write(self, session: int, num_tokens: int) -> None:
        for cache in self.caches:
            first = cache.get(session).length
            for block in cache.layout:
                key = rows_of(session, block.layer, first, first + num_tokens, 3)
                value = rows_of(session, block.layer, first, first + num_tokens, 5)
                cache.get(session).append(block.layer, key, value)
            cache.get(session).keep(first, kept_of(session, first, first + num_tokens, self.end_of(cache)))
            cache.advance(session, num_tokens)

    def end_of(self, cache: KVCache) -> int:
        """The block behind which it is."""
        return len(self.caches[0].layout) if cache is self.caches[0] else len(BLOCKS)

    @rule(capacity=st.integers(1, 24))
    def open(self, capacity: int) -> None:
        session, self.next_session = self.next_session, self.next_session + 1
        try:
            self.caches[0].open(session, capacity)
        except KVMemorySpent:
            return
        try:
            self.caches[1].open(session, capacity)
        except KVMemorySpent:
            self.caches[0].close(session)

    @precondition(lambda self: self.caches[0]._sessions)
    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        session = self.session(data)
        room = self.caches[0].get(session).capacity - self.caches[0].get(session).length
        self.write(session, data.draw(st.integers(0, room)))

    @precondition(lambda self: self.caches[0]._sessions)
    @rule()
    def append_together(self) -> None:
        """As a step of the shard does it: one write for all sessions of a bucket."""
        for cache in self.caches:
            ready = [one for one in cache._sessions if cache.get(one).length < cache.get(one).capacity]
            buckets, alone = buckets_of([Segment(cache.get(one), 1) for one in ready], 6, torch.device("cpu"))
            together = [ready[index] for bucket in buckets for index in bucket.order.tolist()]
            assert sorted([*together, *(ready[index] for index in alone)]) == sorted(ready)
            for bucket in buckets:
                members = [(ready[index], cache.get(ready[index]).length) for index in bucket.order.tolist()]
                for block in cache.layout:
                    for store, dim in ((bucket.store.keys, 3), (bucket.store.values, 5)):
                        new = [rows_of(one, block.layer, at, at + 1, dim)[:, 0] for one, at in members]
                        store[block.layer].index_copy_(0, bucket.targets, torch.stack(new))
            for index in alone:
                one, at = ready[index], cache.get(ready[index]).length
                for block in cache.layout:
                    key, value = (rows_of(one, block.layer, at, at + 1, dim) for dim in (3, 5))
                    cache.get(one).append(block.layer, key, value)
            if ready:
                ats = [cache.get(one).length for one in ready]
                own = [kept_of(one, at, at + 1, self.end_of(cache)) for one, at in zip(ready, ats, strict=True)]
                keep_together([cache.get(one) for one in ready], ats, [1] * len(ready), torch.cat(own))
            for one in ready:
                cache.advance(one, 1)

    @precondition(lambda self: self.caches[0]._sessions)
    @rule(data=st.data())
    def crop(self, data: st.DataObject) -> None:
        session = self.session(data)
        length = data.draw(st.integers(0, self.caches[0].get(session).length))
        for number, cache in enumerate(self.caches):
            cache.crop(session, length)
            self.kept_from[number][session] = min(self.kept_from[number].get(session, 0), length)

    @precondition(lambda self: self.caches[0]._sessions)
    @rule(data=st.data(), more=st.integers(1, 12))
    def grow(self, data: st.DataObject, more: int) -> None:
        session = self.session(data)
        capacity = self.caches[0].get(session).capacity + more
        try:
            for cache in self.caches:
                cache.grow(session, capacity)
        except KVMemorySpent:
            for cache in self.caches:
                cache.close(session)

    @precondition(lambda self: self.caches[0]._sessions)
    @rule(data=st.data())
    def move_away_and_back(self, data: st.DataObject) -> None:
        session = self.session(data)
        for number, cache in enumerate(self.caches):
            length, capacity = cache.get(session).length, cache.get(session).capacity
            self.kept_from[number][session] = length
            exported = cache.export(session)
            cache.close(session)
            cache.restore(session, length, exported, capacity)

    @precondition(lambda self: self.caches[0]._sessions)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        session = self.session(data)
        for cache in self.caches:
            cache.close(session)

    @rule(border=st.integers(0, 4), goes_on_in_front=st.booleans())
    def move_the_border(self, border: int, goes_on_in_front: bool) -> None:
        """The two become one, and that one gives up blocks, which a new cache gets with what they held."""
        whole = self.caches[0]
        whole.join(self.caches[1], KEPT)
        self.caches, self.kept_from = [KVCache(BLOCKS[:0], torch.float32), whole], [{}, self.kept_from[1]]
        self.every_key_is_the_sessions_own()
        staying, leaving = BLOCKS[:border], BLOCKS[border:]
        if not goes_on_in_front:
            staying, leaving = leaving, staying
        exported = {one: whole.export(one, [block.layer for block in leaving]) for one in whole._sessions}
        whole.trim(staying, KEPT, forgets=goes_on_in_front)
        new = KVCache(leaving, torch.float32, self.budget, KEPT)
        lengths = {one: session.length for one, session in whole._sessions.items()}
        for one, length in lengths.items():
            new.restore(one, length, exported[one], whole.get(one).capacity)
        if goes_on_in_front:
            self.caches, self.kept_from = [whole, new], [dict(lengths), dict(lengths)]
        else:
            self.caches, self.kept_from = [new, whole], [dict(lengths), self.kept_from[1]]

    @invariant()
    def every_key_is_the_sessions_own(self) -> None:
        for cache in self.caches:
            for session in cache._sessions:
                for layer, (keys, values) in cache.export(session).items():
                    assert torch.equal(keys, rows_of(session, layer, 0, cache.get(session).length, 3))
                    assert torch.equal(values, rows_of(session, layer, 0, cache.get(session).length, 5))

    @invariant()
    def what_is_kept_is_the_sessions_own(self) -> None:
        for number, cache in enumerate(self.caches):
            for session, rows in cache._sessions.items():
                first = self.kept_from[number].get(session, 0)
                assert torch.equal(
                    rows.kept(0, rows.length)[first:], kept_of(session, first, rows.length, self.end_of(cache))
                )

    @invariant()
    def memory_adds_up(self) -> None:
        assert self.budget.reserved_bytes == sum(cache.reserved_bytes for cache in self.caches) <= LIMIT_BYTES


Caches.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True)
TestCaches = Caches.TestCase


def test_models_of_one_device_never_reserve_more_than_it_has() -> None:
    device = MemoryBudget(100)
    one, other = device.part("one", 80), device.part("other", 80)
    assert device.part("one", 80) is one
    assert one.reserve(70) and not one.reserve(20) and not other.reserve(40) and other.reserve(30)
    assert device.reserved_bytes == 100 and other.room() == (0, 100)
    one.release(70)
    assert other.reserve(50) and not other.reserve(1)


def test_a_closed_session_gives_its_pages_back_while_another_runs() -> None:
    """Otherwise what one stage has freed and another one has taken would be resident twice."""
    layout = (BlockKV(0, 1, 1024, 1024),)
    cache = KVCache(layout, torch.float32)
    for session in (1, 2):
        ones = torch.ones(1, 8, 1024)
        cache.open(session, 8).append(0, ones, ones)
        cache.advance(session, 8)
    store = cache.get(1).place
    assert store is not None
    cache.close(1)
    assert not store.store.keys[0][:8].any(), "the system gives zeros for pages that it took"
    assert bool(cache.export(2)[0][0].all())


def test_neighbours_that_share_a_page_give_it_back_when_both_are_closed() -> None:
    """Once, each gave back the whole pages within its own rows, and what the two had between them never was."""
    cache = KVCache((BlockKV(0, 1, 8, 8),), torch.float32)
    for session, capacity in ((1, 300), (2, 20), (3, 20), (4, 300)):
        ones = torch.ones(1, capacity, 8)
        cache.open(session, capacity).append(0, ones, ones)
        cache.advance(session, capacity)
    place = cache.get(1).place
    assert place is not None
    keys = place.store.keys[0]
    cache.close(2)
    assert bool(keys[:640].all()), "what others have on the page stays"
    cache.close(3)
    cache.close(1)
    assert not keys[:256].any() and bool(keys[340:640].all())
    cache.close(4)
    assert not keys.any()


def test_a_row_that_is_written_takes_its_pages_and_no_huge_one() -> None:
    """Where the system makes huge pages unasked, the first row of each block took 2 MiB for keys and 2 for values."""
    cache = KVCache((BlockKV(0, 1, 8, 8),), torch.float32)
    place = cache.open(1, 8).place
    assert place is not None
    flags = map_flags(place.store.keys[0].data_ptr())
    if "nh" not in flags and not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("waits for a kernel with huge pages: there is no /sys/kernel/mm/transparent_hugepage here")
    assert "nh" in flags


def map_flags(address: int) -> list[str]:
    """Those of the map that holds an address (`man proc_pid_smaps`, VmFlags)."""
    is_there = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if bounds:
            is_there = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif is_there and line.startswith("VmFlags:"):
            return line.split()[1:]
    return []
