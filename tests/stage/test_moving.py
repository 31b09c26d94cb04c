"""Blocks that go from one stage to its neighbour while both hold sessions: their texts go on as if nothing had been."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from in_process_ring import PROMPT, alone
from tiny_text_model import save_text_model

from shardnet.errors import BadRequest, KVMemorySpent
from shardnet.loader import load_shard, open_model
from shardnet.stage.budget import MemoryBudget
from shardnet.stage.cache import KVCache
from shardnet.stage.moving import MovingBlock, put_block, take_block
from shardnet.stage.sent_log import kept_by
from shardnet.stage.stage import Stage
from shardnet.timeline.recorder import Recorder
from shardnet.transport.messages import Hop, Part, RingId, SampledToken, SamplingOptions, SessionSpec

RING = RingId(b"epoch", 1)
PROMPTS = [[5 + number, 6, 7, *range(20, 20 + 3 * number)] for number in range(5)]
NUM_TOKENS = 24


class Gate:
    """Between the last stage and the first: what comes there while it is shut waits, and then nothing is on its way."""

    def __init__(self) -> None:
        self.told: dict[int, list[int]] = {}
        self._waiting: list[Hop] = []
        self._is_shut = False
        self._news = threading.Condition()
        self.first: Stage

    def pass_on(self, parts: tuple[Part, ...], rows: torch.Tensor) -> None:
        hop = Hop(RING, 0, parts, rows, "last", 0)
        with self._news:
            if self._is_shut:
                self._waiting.append(hop)
                self._news.notify_all()
                return
        self.first.put(hop, 0)

    def tell(self, tokens: tuple[SampledToken, ...]) -> None:
        with self._news:
            for token in tokens:
                self.told.setdefault(token.session, []).append(token.token_id)
            self._news.notify_all()

    def shut(self, num_sessions: int) -> None:
        """And wait until all sessions stand here, or are over."""
        with self._news:
            self._is_shut = True
            assert self._news.wait_for(lambda: self._num_here() == num_sessions, timeout=20)

    def open(self) -> None:
        with self._news:
            self._is_shut, waiting, self._waiting = False, self._waiting, []
        for hop in waiting:
            self.first.put(hop, 0)

    def wait_for(self, num_sessions: int, num_tokens: int) -> None:
        def all_told() -> bool:
            return sum(len(ids) >= num_tokens for ids in self.told.values()) == num_sessions

        with self._news:
            assert self._news.wait_for(all_told, timeout=20)

    def _num_here(self) -> int:
        ended = sum(len(ids) == NUM_TOKENS for ids in self.told.values())
        return ended + sum(len(hop.parts) for hop in self._waiting)


class Onward:
    """An outlet to the next stage, or to the gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.next: Stage | None = None

    def hop(self, parts: tuple[Part, ...], rows: torch.Tensor) -> None:
        if self.next is None:
            self._gate.pass_on(parts, rows)
        else:
            self.next.put(Hop(RING, 1, parts, rows, "here", 0), 0)

    def bulk_hop(self, parts: tuple[Part, ...], rows: torch.Tensor, on_taken: Callable[[], None]) -> None:
        assert self.next is not None
        self.next.put(Hop(RING, 1, parts, rows, "here", 0), 0, on_taken)

    def tokens(self, tokens: tuple[SampledToken, ...]) -> None:
        self._gate.tell(tokens)

    def session_failed(self, session: int, error: BadRequest) -> None:
        raise AssertionError(error)

    def failed(self, error: BaseException) -> None:
        raise AssertionError(error)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of six units."""
    return save_text_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def stages(tiny: Path, gate: Gate) -> Iterator[list[Stage]]:
    """Three of two units each, one behind the other."""
    files = open_model(str(tiny), "float32")
    made: list[Stage] = []
    outlets = [Onward(gate) for _ in range(3)]
    try:
        for number, outlet in enumerate(outlets):
            first, last = 2 * number, 2 * number + 1
            shard = load_shard(files.folder, files.tensors_of(first, last), first, last, "float32")
            kv = KVCache(shard.kv_layout, shard.dtype, MemoryBudget(1 << 24), kept_by(shard, shard.dtype))
            made.append(Stage(shard, kv, Recorder("here", number), outlet, chunk_tokens=4, num_threads=1))
        outlets[0].next, outlets[1].next = made[1], made[2]
        gate.first = made[0]
        yield made
    finally:
        for stage in made:
            stage.close()


def begin(stages: list[Stage], session: int, prompt: list[int]) -> None:
    spec = SessionSpec(session, 64, len(prompt), len(prompt), NUM_TOKENS, (), SamplingOptions())
    for stage in stages:
        stage.open_session(spec)
    stages[0].put(Hop(RING, 0, (Part(session, 0, len(prompt)),), torch.tensor(prompt), "source", 0), 0, lambda: None)


def move(stages: list[Stage], chance: random.Random) -> bool:
    """A block over one of the two borders, if one can go."""
    left = chance.randrange(2)
    source, target = chance.sample(stages[left : left + 2], 2)
    unit = source.shard.last_unit if source is stages[left] else source.shard.first_unit
    if source.shard.num_units == 1 or unit in (0, 5):
        return False
    put_block(target, take_block(source, unit).result(timeout=5)).result(timeout=5)
    return True


@pytest.mark.parametrize("seed", range(4))
def test_texts_go_on_where_blocks_move(stages: list[Stage], gate: Gate, tiny: Path, seed: int) -> None:
    chance = random.Random(seed)
    for session, prompt in enumerate(PROMPTS):
        begin(stages, session, prompt)
    num_moved = 0
    for num_tokens in range(2, NUM_TOKENS - 2, 3):
        gate.wait_for(len(PROMPTS), num_tokens)
        gate.shut(len(PROMPTS))
        num_moved += move(stages, chance)
        assert [unit.index for stage in stages for unit in stage.shard.units] == list(range(6))
        for stage in stages:
            assert stage.kv.layout == stage.shard.kv_layout
        gate.open()
    gate.wait_for(len(PROMPTS), NUM_TOKENS)
    assert num_moved >= 3
    assert [gate.told[session] for session in range(len(PROMPTS))] == alone(tiny, PROMPTS, NUM_TOKENS)


def test_a_block_takes_its_memory_along(stages: list[Stage], gate: Gate) -> None:
    begin(stages, 0, PROMPT)
    gate.wait_for(1, 1)
    gate.shut(1)
    sent = [stage.kv.kept.bytes_per_token * stage.kv.get(0).capacity for stage in stages]
    kv_of_one, whole = stages[0].kv.reserved_bytes - sent[0], sum(stage.kv.reserved_bytes for stage in stages)
    weights = stages[0].shard.weight_bytes
    block = take_block(stages[0], 1).result(timeout=5)
    assert stages[0].kv.reserved_bytes == sent[0] and stages[0].shard.weight_bytes < weights
    put_block(stages[1], block).result(timeout=5)
    assert stages[1].kv.reserved_bytes == 3 * kv_of_one + sent[1]
    assert sum(stage.kv.reserved_bytes for stage in stages) == whole


def test_what_cannot_move_is_refused_and_all_is_as_before(stages: list[Stage], gate: Gate, tiny: Path) -> None:
    begin(stages, 0, PROMPT)
    gate.wait_for(1, 2)
    gate.shut(1)
    for unit in (0, 2, 7):  # the embedding; not at an end; not there
        with pytest.raises(BadRequest, match=f"Unit {unit} cannot be taken"):
            take_block(stages[0], unit).result(timeout=5)
    block = take_block(stages[0], 1).result(timeout=5)
    with pytest.raises(BadRequest, match="cannot come to a stage of units 4 to 5"):
        put_block(stages[2], block).result(timeout=5)
    with pytest.raises(BadRequest, match="layer 0 should come as"):
        put_block(stages[1], MovingBlock(block.unit, {})).result(timeout=5)
    budget = stages[1].kv._budget
    free = budget.room().free_bytes
    assert budget.reserve(free)
    with pytest.raises(KVMemorySpent):
        put_block(stages[1], block).result(timeout=5)
    budget.release(free)
    put_block(stages[0], block).result(timeout=5)
    gate.open()
    gate.wait_for(1, NUM_TOKENS)
    assert [gate.told[0]] == alone(tiny, [PROMPT], NUM_TOKENS)
