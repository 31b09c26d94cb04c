"""What a device's stages may take of its memory: weights and KV caches from one budget, looked at for each model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from in_process_ring import PROMPT, SPLIT, RingInProcess, alone, answer, load, ring_in_process
from processes import wait_until

from shardnet.device import memory as memory_module
from shardnet.device.memory import DeviceMemory
from shardnet.errors import DoesNotFit, KVMemorySpent

MIB = 2**20


@pytest.fixture
def ring() -> Iterator[RingInProcess]:
    with ring_in_process() as ring:
        yield ring


class PlayedStage:
    def __init__(self) -> None:
        self.unread_bytes = 0
        self.untouched_kv_bytes = 0
        self.untouched_bytes_beside = 0

    @property
    def untouched_bytes(self) -> int:
        return self.unread_bytes + self.untouched_kv_bytes


def test_weights_and_what_is_promised_to_sessions_are_taken_from_one_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    usable_bytes = 100
    monkeypatch.setattr(memory_module, "usable_compute_bytes", lambda compute: usable_bytes)
    one, other = PlayedStage(), PlayedStage()
    memory = DeviceMemory("a", lambda: [one, other])
    memory.reserve_weights(60, one)
    assert memory.promised_bytes() == 60
    with pytest.raises(DoesNotFit, match=r"GiB on a, and .* free there beside"):
        memory.reserve_weights(41, other)  # none is read yet: the system says that all is free
    one.unread_bytes, usable_bytes = 0, 40
    sessions = memory.budget.part("one", 1000)
    assert sessions.reserve(30) and not sessions.reserve(11)
    one.untouched_kv_bytes = 30
    memory.reserve_weights(10, other)
    assert memory.budget.room() == (0, 100)
    memory.budget.release(60)
    assert sessions.reserve(60) and not sessions.reserve(1)


def test_beside_an_accelerator_sessions_keep_no_more_than_the_processors_memory_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_module, "usable_compute_bytes", lambda compute: 10**9)
    usable_bytes = 100
    monkeypatch.setattr(memory_module, "usable_memory_bytes", lambda: usable_bytes)
    stage = PlayedStage()
    memory = DeviceMemory("a", lambda: [stage], compute="cuda:0")
    memory.reserve_weights(60, stage)
    assert memory.beside.reserve(80) and not memory.beside.reserve(21)
    stage.untouched_bytes_beside, usable_bytes = 50, 90  # 30 of the 80 are written, and somebody else has ended
    memory.reserve_weights(60, stage)
    assert memory.beside.room() == (40, 120)


def test_a_device_that_joined_while_memory_was_full_does_not_stay_small(
    monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    """Once, what there was when it joined was its limit for ever: every session was refused."""
    with ExitStack() as ends:
        with monkeypatch.context() as patch:
            patch.setattr("shardnet.profiling.memory.machine_memory", lambda *_: (8 * MIB, 0))
            ring = ends.enter_context(ring_in_process())
        with ring.connect() as cluster, load(cluster, tiny) as model:
            assert answer(model) == alone(tiny, [PROMPT], 12)[0]


def test_weights_are_reserved_while_a_model_is_there(ring: RingInProcess, tiny: Path) -> None:
    budgets = [worker.premises.memory.budget for worker in ring.workers.values()]
    with ring.connect() as cluster:
        with load(cluster, tiny) as model:
            weights = [stage.weight_bytes for stage in model.report()]
            assert [budget.reserved_bytes for budget in budgets] == weights
            with load(cluster, tiny):
                assert [budget.reserved_bytes for budget in budgets] == weights, (
                    "the same tensors, which are there once"
                )
            described = [answer["memory_promised_bytes"] for answer in cluster.describe()]
            assert described == [0, 0, 0]
            stream = model.stream(PROMPT, max_new_tokens=1000)
            next(stream)
            assert all(answer["memory_promised_bytes"] > 100_000 for answer in cluster.describe())
            stream.close()
            model._deployment.sessions.settle()
        wait_until(lambda: [budget.reserved_bytes for budget in budgets] == [0, 0, 0])


def test_a_model_that_does_not_fit_beside_another_is_refused_and_leaves_nothing(
    ring: RingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, weights were taken from no budget: two models were promised more than there was."""
    budgets = [worker.premises.memory.budget for worker in ring.workers.values()]
    with ring.connect() as cluster, load(cluster, tiny) as model:
        before = [budget.reserved_bytes for budget in budgets]
        monkeypatch.setattr(memory_module, "usable_compute_bytes", lambda compute: 10_000)
        with pytest.raises(DoesNotFit, match="are free there beside"):
            cluster.load(tiny, dtype="bfloat16", split=SPLIT)
        wait_until(lambda: [budget.reserved_bytes for budget in budgets] == before)
        with pytest.raises(KVMemorySpent):
            model.stream(PROMPT, max_new_tokens=1000)


def test_the_same_model_twice_is_two_models_with_a_limit_each(ring: RingInProcess, tiny: Path) -> None:
    """Once, the limit of the one that came later was that of both."""
    with ring.connect() as cluster, load(cluster, tiny) as model:
        with cluster.load(tiny, dtype="float32", split=SPLIT, kv_memory_bytes=10_000) as small:
            assert len(answer(model, PROMPT, 200)) == 200
            with pytest.raises(KVMemorySpent):
                small.stream(PROMPT, max_new_tokens=200)


def test_what_ended_stages_have_left_is_given_back(
    ring: RingInProcess, monkeypatch: pytest.MonkeyPatch, tiny: Path
) -> None:
    """torch keeps an accelerator's memory for its own process: a second device of a card found none."""
    given_back: list[str] = []
    monkeypatch.setattr(memory_module, "return_cached", given_back.append)
    with ring.connect() as cluster, load(cluster, tiny):
        assert not given_back
    wait_until(lambda: given_back == ["cpu"] * len(SPLIT))
