"""KV caches of many sessions: append, crop, grow, export, restore, and a budget."""

from __future__ import annotations

import random
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.errors import BadRequest, KVMemorySpent
from shardnet.models import BlockKV
from shardnet.stage import extent as extent_module
from shardnet.stage import rows as rows_module
from shardnet.stage.budget import MemoryBudget
from shardnet.stage.cache import KVCache
from shardnet.stage.extent import Kept
from shardnet.stage.rows import LEAST_ROWS
from shardnet.stage.session_cache import keep_together

LAYOUT = (BlockKV(3, 2, 4, 4), BlockKV(4, 2, 4, 6))
"""Two blocks; the second one's values are wider than its keys."""
BYTES_PER_TOKEN = (2 * 8 + 2 * 10) * 4
Acts = list[tuple[str, int, int]]
"""What becomes of which session, and of how many tokens."""


def filled(
    cache: KVCache, session: int, num_tokens: int, capacity: int = 8
) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Open a session and give it tokens; returns what was appended."""
    kv = cache.open(session, capacity)
    generator = torch.Generator().manual_seed(session)
    appended = {}
    for block in cache.layout:
        key = torch.randn(2, num_tokens, block.key_dim, generator=generator)
        value = torch.randn(2, num_tokens, block.value_dim, generator=generator)
        kv.append(block.layer, key, value)
        appended[block.layer] = (key, value)
    cache.advance(session, num_tokens)
    return appended


def test_append_gives_all_tokens() -> None:
    cache = KVCache(LAYOUT, torch.float32)
    appended = filled(cache, 0, 3)
    key, value = torch.ones(2, 2, 4), torch.ones(2, 2, 6)
    keys, values = cache.get(0).append(4, key, value)
    assert torch.equal(keys, torch.cat([appended[4][0], key], 1))
    assert torch.equal(values, torch.cat([appended[4][1], value], 1))
    assert cache.get(0).length == 3, "appending does not advance: the next block appends at the same place"
    assert keys.stride(-1) == 1


def test_bytes_are_counted() -> None:
    cache = KVCache(LAYOUT, torch.float32)
    filled(cache, 0, 3, capacity=8)
    filled(cache, 1, 5, capacity=10)
    assert cache.bytes_per_token == BYTES_PER_TOKEN
    assert (cache.reserved_bytes, cache.untouched_bytes) == (18 * BYTES_PER_TOKEN, 10 * BYTES_PER_TOKEN)
    cache.close(0)
    cache.close(0)
    assert (cache.reserved_bytes, cache.untouched_bytes, tuple(cache._sessions)) == (
        10 * BYTES_PER_TOKEN,
        5 * BYTES_PER_TOKEN,
        (1,),
    )


def test_the_budget_is_kept() -> None:
    cache = KVCache(LAYOUT, torch.float32, MemoryBudget(10 * BYTES_PER_TOKEN))
    cache.open(0, 6)
    with pytest.raises(KVMemorySpent, match=r"5 tokens needs 0.0 MiB .* 0.0 of 0.0 MiB are free\. Wait for other"):
        cache.open(1, 5)
    assert tuple(cache._sessions) == (0,)
    cache.open(2, 4)
    with pytest.raises(KVMemorySpent):
        cache.grow(2, 5)
    cache.close(0)
    cache.grow(2, 10)


def test_more_tokens_than_reserved_are_refused() -> None:
    cache = KVCache(LAYOUT, torch.float32)
    filled(cache, 0, 7, capacity=8)
    with pytest.raises(KVMemorySpent, match="room for 8 tokens and this step would make it 9"):
        cache.get(0).append(3, torch.zeros(2, 2, 4), torch.zeros(2, 2, 4))
    with pytest.raises(KVMemorySpent, match="room for 8 tokens, not for 9"):
        cache.advance(0, 2)
    assert cache.get(0).length == 7


def test_growing_keeps_the_tokens() -> None:
    cache = KVCache(LAYOUT, torch.float32)
    appended = filled(cache, 0, 8, capacity=8)
    cache.grow(0, 20)
    cache.grow(0, 4)  # never shrinks
    assert cache.get(0).capacity == 20 and cache.get(0).length == 8
    assert all(torch.equal(cache.export(0)[layer][0], key) for layer, (key, _) in appended.items())


def test_cropping_forgets_the_end() -> None:
    cache = KVCache(LAYOUT, torch.float32)
    appended = filled(cache, 0, 6)
    cache.crop(0, 2)
    keys, _ = cache.get(0).append(3, torch.ones(2, 1, 4), torch.ones(2, 1, 4))
    assert torch.equal(keys[:, :2], appended[3][0][:, :2]) and bool((keys[:, 2] == 1).all())
    with pytest.raises(BadRequest, match="holds 2 tokens and cannot be cropped to 3"):
        cache.crop(0, 3)


def test_a_session_moves_to_another_cache() -> None:
    source = KVCache(LAYOUT, torch.float32)
    appended = filled(source, 0, 5)
    exported = source.export(0)
    assert exported[3][0].untyped_storage().nbytes() == exported[3][0].nbytes, "a view would ship its whole storage"
    assert list(source.export(0, [4])) == [4]
    target = KVCache(LAYOUT[1:], torch.float32)
    target.restore(0, 5, exported, capacity_tokens=9)
    keys, values = target.get(0).append(4, torch.zeros(2, 1, 4), torch.zeros(2, 1, 6))
    assert torch.equal(keys[:, :5], appended[4][0]) and torch.equal(values[:, :5], appended[4][1])
    with pytest.raises(BadRequest, match=r"layer 3 should come as .* and came as nothing"):
        KVCache(LAYOUT, torch.float32).restore(0, 5, {4: exported[4]}, 9)
    with pytest.raises(BadRequest, match="layer 4 should come as"):
        target.restore(1, 4, exported, 9)


def test_another_dtype_is_refused_and_not_converted() -> None:
    source, target = (KVCache(LAYOUT, dtype) for dtype in (torch.bfloat16, torch.float32))
    filled(source, 0, 3)
    with pytest.raises(BadRequest, match=r"come as torch.float32 \(2, 3, 4\) .* came as torch.bfloat16 \(2, 3, 4\)"):
        target.restore(0, 3, source.export(0), 8)
    assert len(target) == 0


def test_a_shard_without_blocks_counts_tokens() -> None:
    cache = KVCache((), torch.float32, MemoryBudget(0))
    cache.open(0, 100)
    cache.advance(0, 7)
    cache.restore(1, 4, {}, 10)
    assert (cache.get(0).length, cache.get(1).length, cache.reserved_bytes) == (7, 4, 0)


@pytest.mark.parametrize("capacity", [0, -5])
def test_a_session_without_room_is_refused(capacity: int) -> None:
    """Once, a negative number of rows wrapped around: the next session got rows of this one's neighbour."""
    cache = KVCache(LAYOUT, torch.float32)
    with pytest.raises(BadRequest, match=f"at least 1 token, and asks for {capacity}"):
        cache.open(0, capacity)
    assert len(cache) == 0


def test_sessions_are_known_by_name() -> None:
    cache = KVCache(LAYOUT, torch.float32)
    cache.open(0, 4)
    with pytest.raises(BadRequest, match="Session 0 is open already"):
        cache.open(0, 4)
    with pytest.raises(BadRequest, match="No session 5 is open here"):
        cache.get(5)


def test_a_small_session_has_room_where_the_system_gives_few_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, it was refused under `ulimit -v`, since only a stretch of 4096 rows was tried."""
    asked_for = few_addresses(monkeypatch, most_rows=100)
    cache = KVCache(LAYOUT, torch.float32)
    filled(cache, 0, 3, capacity=60)
    assert asked_for == [LEAST_ROWS, 60]
    with pytest.raises(KVMemorySpent, match="gives no"):
        cache.open(1, 101)
    assert cache.reserved_bytes == 60 * BYTES_PER_TOKEN


def test_a_stretch_that_did_not_fit_holds_nothing_while_a_small_one_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, what the error of the first still held was in the second one's way."""
    there: weakref.WeakSet[Any] = weakref.WeakSet()
    made = extent_module._Map.__init__

    def make(self: Any, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        if sum(each.tensor.shape[0] for each in there) + shape[0] > 3 * LEAST_ROWS:
            raise KVMemorySpent("The system gives no addresses.")
        made(self, shape, dtype)
        there.add(self)

    monkeypatch.setattr(extent_module._Map, "__init__", make)
    filled(KVCache(LAYOUT, torch.float32), 0, 3, capacity=60)


def test_an_accelerator_is_not_asked_for_more_than_the_budget_has() -> None:
    """Rows that nobody has reserved take memory there: extents took twice the budget, and steps had none."""
    limit_rows = 2 * LEAST_ROWS
    cache = KVCache(LAYOUT, torch.float32, MemoryBudget(limit_rows * BYTES_PER_TOKEN), device=torch.device("meta"))
    chooser = random.Random(0)
    is_open: list[int] = []
    num_refused = 0
    for session in range(300):
        if len(is_open) > chooser.randrange(20):
            cache.close(is_open.pop(chooser.randrange(len(is_open))))
        try:
            cache.open(session, chooser.choice([10, 100, 700, 3000]))
            is_open.append(session)
        except KVMemorySpent:
            num_refused += 1
        taken_rows = sum(extent.num_rows for extent in cache.extents)
        assert taken_rows <= limit_rows, session
    assert 0 < num_refused < 100
    for session in is_open:
        cache.close(session)
    cache.open(300, limit_rows)


def test_what_an_accelerator_holds_of_fewer_blocks_counts_by_its_bytes() -> None:
    """Of stages that have become one; no new session has room in their extents."""
    budget, meta = MemoryBudget(1000 * BYTES_PER_TOKEN), torch.device("meta")
    first, second = (KVCache([block], torch.float32, budget, device=meta) for block in LAYOUT)
    for cache in (first, second):
        for session in range(2):
            cache.open(session, 200)
    first.join(second, Kept(0, torch.float32, 0))
    first.close(0)
    first.open(2, 500)
    with pytest.raises(KVMemorySpent, match="in pieces between"):
        first.open(3, 300)
    first.close(1)
    first.open(3, 300)


def test_a_long_session_fits_beside_a_short_one_on_an_accelerator() -> None:
    budget = MemoryBudget(6000 * BYTES_PER_TOKEN)
    cache = KVCache(LAYOUT, torch.float32, budget, device=torch.device("meta"))
    cache.open(0, 100)
    cache.open(1, 5000)
    assert budget.reserved_bytes == 5100 * BYTES_PER_TOKEN


def test_what_is_kept_beside_an_accelerator_is_taken_from_the_memory_of_the_processor() -> None:
    """It was taken from the accelerator's budget, where it is not, and from nobody's where it is."""
    kept = Kept(4, torch.float32, 1)
    budget, beside = MemoryBudget(2000 * BYTES_PER_TOKEN), MemoryBudget(100 * kept.bytes_per_token)
    meta = torch.device("meta")
    cache, other = (KVCache([block], torch.float32, budget, kept, meta, beside) for block in LAYOUT)
    cache.open(0, 30)
    cache.advance(0, 10)
    cache.grow(0, 40)
    assert beside.reserved_bytes == 40 * kept.bytes_per_token
    assert cache.untouched_bytes == 0 and cache.untouched_bytes_beside == 30 * kept.bytes_per_token
    with pytest.raises(KVMemorySpent, match="beside the accelerator and"):
        cache.open(1, 61)
    assert budget.reserved_bytes == 40 * cache.bytes_per_token, "what the accelerator had for it is free again"
    other.open(0, 40)
    cache.join(other, kept)
    assert beside.reserved_bytes == 40 * kept.bytes_per_token
    cache.trim(LAYOUT[:1], kept._replace(width=0), forgets=True)
    assert beside.reserved_bytes == 40 * 8
    cache.close(0)
    assert (budget.reserved_bytes, beside.reserved_bytes) == (0, 0)


def test_what_is_kept_beside_metal_is_taken_from_the_memory_that_both_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "has_own_memory", lambda device_type: device_type != "meta")  # as it is with mps
    kept = Kept(4, torch.float32, 1)
    budget, beside = MemoryBudget(), MemoryBudget(0)
    cache = KVCache(LAYOUT, torch.float32, budget, kept, torch.device("meta"), beside)
    cache.open(0, 30)
    cache.advance(0, 10)
    assert budget.reserved_bytes == 30 * (BYTES_PER_TOKEN + kept.bytes_per_token) == 30 * cache.bytes_per_token
    assert cache.untouched_bytes == 20 * kept.bytes_per_token and cache.untouched_bytes_beside == 0
    cache.close(0)
    assert budget.reserved_bytes == beside.reserved_bytes == 0


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), KVMemorySpent),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.80 GB, max allowed: 9.07 GB)."), KVMemorySpent),
        (RuntimeError("Invalid buffer size: 14.90 GB"), KVMemorySpent),
        (RuntimeError("something else"), RuntimeError),
    ],
    ids=["cuda", "metal", "metal, one tensor", "another error"],
)
def test_an_accelerator_that_is_full_says_so_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError, raised: type[Exception]
) -> None:
    """Metal has no error of its own for it: what it said came out as a mistake of ours."""
    made = torch.empty

    def make(*shape: Any, device: Any = None, **how: Any) -> torch.Tensor:
        if device is not None:
            raise error
        return made(*shape, **how)

    monkeypatch.setattr(torch, "empty", make)
    with pytest.raises(raised, match="meta gives no" if raised is KVMemorySpent else "something else"):
        KVCache(LAYOUT, torch.float32, device=torch.device("meta")).open(0, 10)


@pytest.mark.parametrize("short_of", ["memory", "addresses"])
def test_what_finds_no_room_beside_fewer_blocks_leaves_all_as_it_was(
    monkeypatch: pytest.MonkeyPatch, short_of: str
) -> None:
    """What is to be kept of each token takes more than what is given up."""
    budget = MemoryBudget(2 * LEAST_ROWS * (BYTES_PER_TOKEN + 4) if short_of == "memory" else 2**40)
    cache = KVCache(LAYOUT, torch.float32, budget)
    appended = filled(cache, 0, 3, capacity=LEAST_ROWS)
    filled(cache, 1, 3, capacity=LEAST_ROWS + 1)
    reserved = budget.reserved_bytes
    if short_of == "addresses":
        few_addresses(monkeypatch, most_rows=LEAST_ROWS)
    wide = Kept(100, torch.float32, 0)
    with pytest.raises(KVMemorySpent, match="gives no" if short_of == "addresses" else "What is sent of the open"):
        cache.trim(LAYOUT[1:], wide, forgets=True)
    assert budget.reserved_bytes == reserved and cache.layout == LAYOUT
    assert torch.equal(cache.export(0)[3][0], appended[3][0])
    cache.close(1)
    cache.close(0)
    cache.trim(LAYOUT[1:], wide, forgets=True)
    assert budget.reserved_bytes == 0


def few_addresses(monkeypatch: pytest.MonkeyPatch, most_rows: int) -> list[int]:
    """Let the system give no stretch of more than so many rows; returns a list that gets what is asked for."""
    asked_for: list[int] = []
    made = extent_module._Map.__init__

    def make(self: Any, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        if shape[0] not in asked_for[-1:]:
            asked_for.append(shape[0])
        if shape[0] > most_rows:
            raise KVMemorySpent("The system gives no addresses.")
        made(self, shape, dtype)

    monkeypatch.setattr(extent_module._Map, "__init__", make)
    return asked_for


def test_a_session_that_is_forgotten_keeps_its_rows_until_it_is_freed() -> None:
    budget = MemoryBudget(10 * BYTES_PER_TOKEN)
    cache = KVCache(LAYOUT, torch.float32, budget)
    cache.open(0, 10)
    forgotten = cache.forget(0)
    assert forgotten is not None and forgotten.place is not None
    other = cache.open(1, 10).place
    assert other is not None and other.first_row == 10
    cache.free(forgotten)
    cache.close(1)
    again = cache.open(2, 10).place
    assert again is not None and again.first_row == 0
    with pytest.raises(KVMemorySpent):
        cache.open(3, 1)


def test_sessions_have_rows_of_their_own_where_python_leaves_asserts_out() -> None:
    """Once, with PYTHONOPTIMIZE=1, the second session wrote over the first one's keys, and both texts went wrong."""
    script = (
        "import torch\n"
        "from shardnet.models import BlockKV\n"
        "from shardnet.stage.cache import KVCache\n"
        "cache = KVCache([BlockKV(0, 1, 4, 4)], torch.float32)\n"
        "print([cache.open(session, 5).place.first_row for session in (1, 2, 3)])\n"
    )
    printed = subprocess.run(
        [sys.executable, "-O", "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert printed.stdout == "[0, 5, 10]\n"


@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_beside_keys_and_values_is_each_sessions_own(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Also where sessions lie in several extents, and one in several runs."""
    monkeypatch.setattr(rows_module, "LEAST_ROWS", 8)
    chance = random.Random(seed)
    kept = Kept(3, torch.bfloat16, num_ids=2)
    cache = KVCache(LAYOUT, torch.float32, MemoryBudget(200 * (BYTES_PER_TOKEN + 3 * 2 + 2 * 8)), kept)
    written: dict[int, torch.Tensor] = {}
    for session in range(6):
        cache.open(session, chance.randint(1, 9))
        written[session] = torch.empty(0, 3, dtype=torch.bfloat16)
    for _ in range(40):
        cache.grow(chance.randrange(6), chance.randint(1, 30))
        room = {one: min(cache.get(one).capacity - len(rows), 4) for one, rows in written.items()}
        ready = chance.sample(range(6), chance.randint(1, 6))
        sizes = {one: chance.randint(1, room[one]) for one in ready if room[one]}
        if not sizes:
            continue
        firsts = [len(written[one]) for one in sizes]
        rows = torch.randn(sum(sizes.values()), 3).bfloat16()
        keep_together([cache.get(one) for one in sizes], firsts, list(sizes.values()), rows)
        for one, own in zip(sizes, rows.split(list(sizes.values())), strict=True):
            written[one] = torch.cat([written[one], own])
    assert len(cache.extents) > 1 and max(len(cache.get(one).runs) for one in range(6)) > 1
    for one, rows in written.items():
        first = chance.randrange(len(rows))
        assert torch.equal(cache.get(one).kept(first, len(rows)), rows[first:])


ACTS = st.lists(
    st.tuples(st.sampled_from(["open", "grow", "close"]), st.integers(0, 3), st.integers(1, 60)), max_size=15
)


@settings(max_examples=60, deadline=None)
@given(ACTS, ACTS, ACTS, st.booleans())
def test_both_budgets_hold_what_sessions_have_whatever_becomes_of_them(
    before: Acts, joined: Acts, trimmed: Acts, forgets: bool
) -> None:
    """On an accelerator, while two stages become one, and that one gives units up."""
    meta, kept = torch.device("meta"), Kept(4, torch.float32, 1)
    budget, beside = MemoryBudget(250 * BYTES_PER_TOKEN), MemoryBudget(200 * kept.bytes_per_token)
    first, second = (KVCache([block], torch.float32, budget, kept, meta, beside) for block in LAYOUT)

    def check(*caches: KVCache) -> None:
        assert budget.reserved_bytes == sum(cache.reserved_bytes for cache in caches) <= (budget.limit_bytes or 0)
        rows = [
            (cache, sum(cache.get(session).capacity for session in range(4) if session in cache)) for cache in caches
        ]
        assert beside.reserved_bytes == sum(cache.kept.bytes_per_token * number for cache, number in rows)
        assert all(cache.reserved_bytes == cache.bytes_per_token * number for cache, number in rows)

    perform(before, first, second, check=check)
    first.join(second, kept._replace(num_ids=2))
    check(first)
    perform(joined, first, check=check)
    first.trim(LAYOUT[1:], kept._replace(width=1), forgets=forgets)
    check(first)
    perform(trimmed, first, check=check)
    for session in range(4):
        first.close(session)
    assert (budget.reserved_bytes, beside.reserved_bytes) == (0, 0)


def perform(acts: Acts, *caches: KVCache, check: Callable[..., None]) -> None:
    for act, session, number in acts:
        for cache in caches:
            with suppress(KVMemorySpent, BadRequest):
                if act == "open":
                    cache.open(session, number)
                elif act == "grow":
                    cache.grow(session, number)
                else:
                    cache.close(session)
            check(*caches)
