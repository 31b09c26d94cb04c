"""Whatever begins with whatever, under one budget: every row that is read back is the session's own, memory adds up."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shardnet.errors import KVMemorySpent
from shardnet.models import BlockKV
from shardnet.stage import rows as rows_module
from shardnet.stage.budget import MemoryBudget
from shardnet.stage.cache import KVCache
from shardnet.stage.extent import Kept

BLOCKS = tuple(BlockKV(layer, 2, 3, 5) for layer in range(2))
KEPT = Kept(2, torch.float32, num_ids=1)
LIMIT_ROWS = 60
MOST_RECENT = 4


class Texts(NamedTuple):
    """What one cache's sessions are to hold."""

    open: dict[int, list[int]]
    """By session: of each token, which session wrote it first."""
    closed: dict[int, list[int]]
    """The same of those that were closed; their rows may have gone."""


def rows_of(text: list[int], layer: int, first: int, dim: int) -> torch.Tensor:
    """[2, t, dim] numbers that say which session wrote them, for which block, token and head."""
    writers = torch.tensor(text[first:])[None, :, None]
    places = torch.arange(first, len(text))[None, :, None] * 8 + torch.arange(dim)
    return (places + 10_000 * writers + 1_000_000 * layer + 500_000 * torch.arange(2)[:, None, None]).float()


def kept_of(text: list[int]) -> torch.Tensor:
    return rows_of(text, 7, 0, 2)[0]


class Sharing(RuleBasedStateMachine):
    """Two caches of one budget, as two models of one device, and somebody else who takes memory."""

    def __init__(self) -> None:
        super().__init__()
        rows_module.LEAST_ROWS, rows_module.MOST_RECENT = 16, MOST_RECENT
        bytes_per_token = 4 * 2 * 8 * len(BLOCKS) + KEPT.bytes_per_token
        self.device = MemoryBudget(LIMIT_ROWS * bytes_per_token)
        parts = [self.device.part(name, 40 * bytes_per_token) for name in ("one", "other")]
        self.caches = [KVCache(BLOCKS, torch.float32, part, KEPT) for part in parts]
        self.texts = [Texts({}, {}), Texts({}, {})]
        self.others_bytes = 0
        self.next_session = 1

    def teardown(self) -> None:
        rows_module.LEAST_ROWS, rows_module.MOST_RECENT = 4096, 64

    def append(self, number: int, session: int, num_tokens: int) -> None:
        cache, text = self.caches[number], self.texts[number].open[session]
        first = len(text)
        text += [session] * num_tokens
        for block in BLOCKS:
            key, value = rows_of(text, block.layer, first, 3), rows_of(text, block.layer, first, 5)
            cache.get(session).append(block.layer, key, value)
        cache.get(session).keep(first, kept_of(text)[first:])
        cache.advance(session, num_tokens)

    @rule(number=st.integers(0, 1), capacity=st.integers(1, 24))
    def open(self, number: int, capacity: int) -> None:
        session, self.next_session = self.next_session, self.next_session + 1
        try:
            self.caches[number].open(session, capacity)
        except KVMemorySpent:
            return
        self.texts[number].open[session] = []

    @precondition(lambda self: any(texts.open or texts.closed for texts in self.texts))
    @rule(data=st.data(), more=st.integers(1, 12))
    def begin_alike(self, data: st.DataObject, more: int) -> None:
        numbers = [number for number in range(2) if self.texts[number].open or self.texts[number].closed]
        number = data.draw(st.sampled_from(numbers))
        texts, cache = self.texts[number], self.caches[number]
        other = data.draw(st.sampled_from(sorted([*texts.open, *texts.closed])))
        recent = cache.recent(other)
        num_there = len(texts.open[other]) if other in texts.open else 0 if recent is None else recent.kv.length
        if num_there == 0:
            return
        if recent is not None:
            assert recent.came.tolist() == texts.closed[other], "what has stayed is all of it"
        num_tokens = data.draw(st.integers(1, num_there))
        session, self.next_session = self.next_session, self.next_session + 1
        text = (texts.open if other in texts.open else texts.closed)[other]
        try:
            opened = cache.open_alike(session, num_tokens + more, other, num_tokens)
        except KVMemorySpent:
            return
        assert opened is cache.get(session) and opened.capacity == num_tokens + more
        assert opened.length in (0, num_tokens)
        texts.open[session] = text[: opened.length]

    @precondition(lambda self: any(texts.open for texts in self.texts))
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from([number for number in range(2) if self.texts[number].open]))
        session = data.draw(st.sampled_from(sorted(self.texts[number].open)))
        kv = self.caches[number].get(session)
        self.append(number, session, data.draw(st.integers(0, kv.capacity - kv.length)))

    @precondition(lambda self: any(texts.open for texts in self.texts))
    @rule(data=st.data(), stays=st.booleans())
    def close(self, data: st.DataObject, stays: bool) -> None:
        number = data.draw(st.sampled_from([number for number in range(2) if self.texts[number].open]))
        session = data.draw(st.sampled_from(sorted(self.texts[number].open)))
        text = self.texts[number].open.pop(session)
        if not stays:
            self.caches[number].close(session)
            return
        closed = self.caches[number].forget(session)
        assert closed is not None
        self.caches[number].keep(session, closed, array("q", text))
        self.texts[number].closed[session] = text

    @rule(part=st.integers(1, 4))
    def others_take_memory(self, part: int) -> None:
        """Weights, say: all that is not needed by an open session is theirs for the asking."""
        free_bytes = self.device.room().free_bytes
        assert free_bytes == self.device.limit_bytes - self.device.needed_bytes
        assert self.device.reserve(free_bytes // part)
        self.others_bytes += free_bytes // part

    @rule()
    def others_give_it_back(self) -> None:
        self.device.release(self.others_bytes)
        self.others_bytes = 0

    @rule(number=st.integers(0, 1))
    def blocks_move(self, number: int) -> None:
        """What has stayed goes; what is open stays."""
        self.caches[number].trim(BLOCKS, KEPT, forgets=False)
        assert self.caches[number].recent_bytes == 0

    @invariant()
    def every_row_is_the_sessions_own(self) -> None:
        for cache, texts in zip(self.caches, self.texts, strict=True):
            recent = {session: cache.recent(session) for session in texts.closed}
            held = {session: (cache.get(session), text) for session, text in texts.open.items()}
            held |= {one: (kept.kv, texts.closed[one]) for one, kept in recent.items() if kept is not None}
            rows = [
                (id(run.extent), row)
                for kv, _ in held.values()
                for run in kv.all_runs()
                for row in range(run.first_row, run.first_row + run.num_rows)
            ]
            assert len(rows) == len(set(rows)), "no row is two sessions'"
            for kv, text in held.values():
                assert kv.length == len(text)
                for block in BLOCKS if text else ():
                    keys, values = kv.read(block.layer, kv.length)
                    assert torch.equal(keys, rows_of(text, block.layer, 0, 3))
                    assert torch.equal(values, rows_of(text, block.layer, 0, 5))
                assert not text or torch.equal(kv.kept(0, kv.length), kept_of(text))

    @invariant()
    def memory_adds_up(self) -> None:
        spare = [cache.recent_bytes for cache in self.caches]
        needed = [cache.reserved_bytes for cache in self.caches]
        for cache, spare_bytes, needed_bytes in zip(self.caches, spare, needed, strict=True):
            assert (cache.budget.spare_bytes, cache.budget.needed_bytes) == (spare_bytes, needed_bytes)
        assert self.device.spare_bytes == sum(spare)
        assert self.device.reserved_bytes == sum(spare) + sum(needed) + self.others_bytes <= self.device.limit_bytes


Sharing.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None, derandomize=True)
TestSharing = Sharing.TestCase


def filled(cache: KVCache, session: int, num_tokens: int) -> None:
    for block in BLOCKS:
        key, value = (
            rows_of([session] * num_tokens, block.layer, 0, 3),
            rows_of([session] * num_tokens, block.layer, 0, 5),
        )
        cache.get(session).append(block.layer, key, value)
    cache.advance(session, num_tokens)


def closed(cache: KVCache, session: int, num_tokens: int, capacity: int = 0) -> None:
    cache.open(session, capacity or num_tokens)
    filled(cache, session, num_tokens)
    rows = cache.forget(session)
    assert rows is not None
    cache.keep(session, rows, array("q", [session] * num_tokens))


def test_what_was_closed_is_taken_over_where_it_lies() -> None:
    cache = KVCache(BLOCKS, torch.float32, kept=KEPT)
    closed(cache, 1, 10, capacity=20)
    recent = cache.recent(1)
    assert recent is not None and recent.kv.capacity == 10
    heir = cache.open_alike(2, 30, 1, 9)
    assert heir is recent.kv and heir.length == 9 and heir.place is not None and cache.recent(1) is None


def test_it_is_copied_where_the_rows_behind_it_are_others() -> None:
    cache = KVCache(BLOCKS, torch.float32, kept=KEPT)
    closed(cache, 1, 10, capacity=20)
    cache.open(3, 100)
    heir = cache.open_alike(2, 30, 1, 9)
    assert heir.length == 9 and heir.place is not None and cache.recent(1) is None
    assert torch.equal(heir.read(1, 9)[0], rows_of([1] * 9, 1, 0, 3))


def test_it_stays_where_its_heir_takes_little_of_it() -> None:
    """Two chats with the same system prompt, turn by turn."""
    cache = KVCache(BLOCKS, torch.float32, kept=KEPT)
    closed(cache, 1, 20)
    assert cache.open_alike(2, 30, 1, 9).length == 9
    assert cache.recent(1) is not None
    assert cache.open_alike(3, 30, 1, 19).length == 19 and cache.recent(1) is None


def test_who_needs_memory_gets_that_of_the_one_that_was_used_longest_ago() -> None:
    per_token = KVCache(BLOCKS, torch.float32, kept=KEPT).bytes_per_token
    device = MemoryBudget(40 * per_token)
    one, other = (KVCache(BLOCKS, torch.float32, device.part(name, 40 * per_token), KEPT) for name in "ab")
    for session, cache in ((1, one), (2, other), (3, one)):
        closed(cache, session, 10)
    assert device.room().free_bytes == 40 * per_token
    one.open(4, 15)
    assert (one.recent(1), other.recent(2) is None, one.recent(3) is None) == (None, False, False)
    assert device.reserve(10 * per_token), "weights of another model, say"
    assert other.recent(2) is None and one.recent(3) is not None
    with pytest.raises(KVMemorySpent):
        other.open(5, 16)
    assert one.recent(3) is not None, "it would not suffice"
