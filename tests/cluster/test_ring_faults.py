"""Real stages in one process, over a network that loses messages: the text is right, or the error is the documented
one, and nobody waits for ever. Most of these hung, or went wrong in silence, once; each says how."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import PROMPT, SPLIT, RingInProcess, alone, answer, load, ring_in_process
from processes import wait_until

from shardnet.cluster.cluster import COORDINATOR
from shardnet.errors import BadRequest, ClusterError
from shardnet.models import Shard
from shardnet.stage.sampling import Scores
from shardnet.transport.messages import Hop, Part, RingId
from shardnet.transport.session_messages import SamplingOptions, SessionSpec


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[int]:
    return alone(tiny, [PROMPT], 12)[0]


@pytest.fixture
def ring() -> Iterator[RingInProcess]:
    with ring_in_process() as ring:
        yield ring


@pytest.fixture
def hasty() -> Iterator[RingInProcess]:
    """A ring whose time passes quickly: what is not answered is sent again soon."""
    with ring_in_process(speed=40) as ring:
        yield ring


@pytest.mark.parametrize("endpoint", ["tokens", "hop", "bulk_hop", "open_session", "close_sessions"])
@pytest.mark.parametrize("is_answer", [False, True])
def test_a_message_that_is_lost_is_sent_again(
    hasty: RingInProcess, tiny: Path, expected: list[int], endpoint: str, is_answer: bool
) -> None:
    """Once, a lost `tokens` hung its session for ever, two lost answers of `bulk_hop` hung that prompt and the next,
    and a lost `close_sessions` kept the next prompt waiting for 30 s."""
    with hasty.connect() as cluster, load(cluster, tiny) as model:
        for _ in range(2):
            hasty.network.drop("*", "*", endpoint=endpoint, count=2, answers=is_answer)
            assert answer(model) == expected
        hasty.network.restore()


def test_a_session_that_failed_is_told_although_the_message_is_lost(
    hasty: RingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scores, "draw", lambda *_: BadRequest("no such token"))
    with hasty.connect() as cluster, load(cluster, tiny) as model:
        hasty.network.drop("*", COORDINATOR, endpoint="session_failed", count=2)
        with pytest.raises(BadRequest, match="no such token"):
            answer(model)


def test_what_comes_twice_is_applied_once(ring: RingInProcess, tiny: Path, expected: list[int]) -> None:
    with ring.connect() as cluster, load(cluster, tiny) as model:
        ring.network.duplicate("*", "*", count=200)
        assert answer(model) == expected
        ring.network.restore()


@pytest.mark.parametrize("where", ["take", "on_taken", "forward"])
def test_an_error_on_the_compute_thread_is_told(
    ring: RingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Once, one that came while the next step was chosen ended the thread in silence: the device lived on and answered
    pings, and its sessions hung."""

    def break_down(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a defect")

    with ring.connect() as cluster, load(cluster, tiny) as model:
        if where == "forward":
            monkeypatch.setattr(Shard, "forward", break_down)
        elif where == "take":
            monkeypatch.setattr("shardnet.stage.inbox.Inbox.take", break_down)
        else:
            [host] = ring.workers["b"]._stages.hosts()
            assert host.stage is not None
            of_nobody = Hop(host.key[0], 1, (Part(999, 0, 1),), torch.zeros(1, 64), "x", 0, 2)
            host.stage.put(of_nobody, 0, break_down)
        with pytest.raises(ClusterError, match="a defect"):
            answer(model)
        with pytest.raises(ClusterError, match="a defect"):
            answer(model)


def test_a_stage_that_has_ended_refuses_what_comes_and_answers_what_waited(ring: RingInProcess, tiny: Path) -> None:
    """Once, a chunk that came after `close` was never answered: its sender waited ten minutes."""
    with ring.connect() as cluster, load(cluster, tiny):
        [host] = ring.workers["a"]._stages.hosts()
        stage = host.stage
        assert stage is not None
        taken = threading.Event()
        early = Hop(host.key[0], 0, (Part(99, 1, 1),), torch.tensor([1]), "x", 0, 0)
        stage.open_session(spec(99))
        stage.put(early, 0, taken.set)
        stage.close()
        assert taken.is_set()
        with pytest.raises(ClusterError, match="no more work"):
            stage.put(early, 0, taken.clear)
        assert taken.is_set()
        with pytest.raises(ClusterError, match="no more work"):
            stage.open_session(spec(100))


def spec(session: int) -> SessionSpec:
    return SessionSpec(session, 20, 5, 5, 12, (), SamplingOptions())


def test_a_session_that_was_closed_is_not_opened_by_an_order_that_comes_late(ring: RingInProcess, tiny: Path) -> None:
    """Once, Ctrl-C between the two let `close_sessions` overtake `open_session`, and the KV memory was lost."""
    with ring.connect() as cluster, load(cluster, tiny):
        worker = ring.workers["a"]
        [host] = worker._stages.hosts()
        assert host.stage is not None
        worker.close_sessions(*host.key, (7,))
        with pytest.raises(BadRequest, match="closed before"):
            worker.open_session(*host.key, spec(7))
        worker.open_session(*host.key, spec(8))
        worker.open_session(*host.key, spec(8))  # told twice
        assert host.stage.usage()[0] == 1
        worker.close_sessions(*host.key, (8,))
        assert host.stage.usage() == (0, 0)


@pytest.mark.parametrize(
    "rows", [torch.tensor([10**6]), torch.tensor([-1]), torch.zeros(1, 64), torch.tensor([1, 2]), torch.tensor([1.0])]
)
def test_rows_that_a_stage_cannot_take_are_refused_and_the_ring_lives_on(
    ring: RingInProcess, tiny: Path, expected: list[int], rows: torch.Tensor
) -> None:
    with ring.connect() as cluster, load(cluster, tiny) as model:
        [host] = ring.workers["a"]._stages.hosts()
        ring_id, stage = host.key
        with pytest.raises(BadRequest):
            ring.workers["a"].hop(Hop(ring_id, stage, (Part(1, 0, 1),), rows, "x", 0, 0))
        assert answer(model) == expected


def test_a_hop_beyond_a_sessions_room_ends_that_session_and_the_ring_lives_on(
    ring: RingInProcess, tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: dict[int, str] = {}
    with ring.connect() as cluster, load(cluster, tiny) as model:
        worker = ring.workers["a"]
        [host] = worker._stages.hosts()
        worker.open_session(*host.key, spec(7))
        monkeypatch.setattr(model._deployment, "on_session_failed", failed.__setitem__)
        worker.hop(Hop(*host.key, (Part(7, 0, 21),), torch.ones(21, dtype=torch.int64), "x", 0, 0))
        wait_until(lambda: "room for 20" in failed.get(7, ""), 5)
        assert answer(model) == expected


def test_a_stage_is_opened_once_and_closing_waits_on_no_thread_of_the_network(
    ring: RingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ring.connect() as cluster:
        model = load(cluster, tiny)
        [host] = ring.workers["a"]._stages.hosts()
        with pytest.raises(ClusterError, match="already"):
            ring.workers["a"].open_stage(host._spec)
        running = host.stage
        assert host.load().result(5) == host.load().result(5), "told again, it is the same load"
        assert host.stage is running
        go_on, is_in_step = threading.Event(), threading.Event()
        forward = Shard.forward

        def slow(shard: Shard, *args: Any) -> Any:
            is_in_step.set()
            go_on.wait(20)
            return forward(shard, *args)

        monkeypatch.setattr(Shard, "forward", slow)
        stream = model.stream(PROMPT, max_new_tokens=4)
        assert is_in_step.wait(20)
        closed = host.close()  # a handler: once, it waited here for the step
        assert not closed.done()
        go_on.set()
        closed.result(20)
        stream.close()


# ---- coordinators that come and go ----


def test_numbers_are_given_out_once_in_a_clusters_life(ring: RingInProcess, tiny: Path) -> None:
    """Once, each coordinator counted plans and sessions from 1, on devices that still held those of the one before."""
    seen: list[tuple[int, int]] = []
    for _ in range(3):
        with ring.connect() as cluster:
            for _ in range(2):
                with load(cluster, tiny) as model, closing(model.stream(PROMPT)) as stream:
                    seen.append((model.plan.version, stream._session.spec.session))
    for numbers in zip(*seen, strict=True):
        assert len(set(numbers)) == len(seen)


def test_what_a_killed_coordinator_has_left_is_dropped_and_the_next_one_is_right(
    ring: RingInProcess, tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, a stage kept its weights, its KV caches and its thread for as long as the device lived, and the next
    coordinator's stages had the same keys."""
    monkeypatch.setattr("shardnet.device.orphans.LOOK_EVERY_S", 0.05)
    for _ in range(5):
        cluster = ring.connect()
        model = load(cluster, tiny)
        assert answer(model) == expected
        abandoned = model.stream(PROMPT, max_new_tokens=2000)
        ring.network.kill(COORDINATOR)
        cluster._watch.close()
        del abandoned
    with ring.connect() as cluster, load(cluster, tiny) as model:
        assert answer(model) == expected
        wait_until(lambda: ring.num_stages() == len(SPLIT), 10)
    wait_until(lambda: ring.num_stages() == 0, 10)
    assert sum(thread.name == "shardnet-compute" for thread in threading.enumerate()) == 0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices look for their coordinators all the time. Named before `ring`, whose devices begin with it."""
    monkeypatch.setattr("shardnet.device.orphans.LOOK_EVERY_S", 0.02)
    monkeypatch.setattr("shardnet.device.orphans.ANSWER_S", 0.05)


def test_a_coordinator_that_is_only_silent_keeps_its_stages(
    impatient: None, ring: RingInProcess, tiny: Path, expected: list[int]
) -> None:
    with ring.connect() as cluster, load(cluster, tiny) as model:
        ring.network.freeze(COORDINATOR)
        time.sleep(0.5)
        ring.network.restore(COORDINATOR)
        assert ring.num_stages() == len(SPLIT)
        assert answer(model) == expected


def test_a_late_hop_of_another_coordinator_fits_nothing(ring: RingInProcess, tiny: Path, expected: list[int]) -> None:
    """Once, a hop with the right plan version was applied, whoever had made that plan: the text changed in silence."""
    with ring.connect() as cluster, load(cluster, tiny) as model:
        [host] = ring.workers["a"]._stages.hosts()
        (_, version), stage = host.key
        stranger = ring.network.join("stranger")
        with closing(model.stream(PROMPT, max_new_tokens=12)) as stream:
            part = Part(stream._session.spec.session, len(PROMPT), 1)
            for epoch in (bytes(16), b"", b"x" * 16):
                forged = Hop(RingId(epoch, version), stage, (part,), torch.tensor([3]), "stranger", 0, 0)
                with pytest.raises(ClusterError, match="not in force"):
                    stranger.post("a", "hop", forged).result(10)
            list(stream)
            assert stream.result.token_ids == expected
