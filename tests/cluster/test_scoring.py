"""A text is scored through a ring: each token once and as `transformers` has it, whatever the split, and whatever is
lost meanwhile. Over a whole ring in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
import torch
from fault_schedules import Fault, FaultSchedule, cut_anywhere, put_into_force
from in_process_ring import PROMPT, RingInProcess, alone, answer, load, loaded, ring_in_process, scored_alone
from lasting_in_process import LastingInProcess, lasting_in_process
from processes import wait_until

from shardnet.cluster import standby
from shardnet.cluster.cluster import COORDINATOR
from shardnet.cluster.model import Model
from shardnet.device.worker import Worker
from shardnet.errors import BadRequest, ClusterError
from shardnet.session import sessions
from shardnet.session.scores import Scores
from shardnet.transport.messages import CopyWanted, RingId, StageKey
from shardnet.transport.session_messages import SessionSpec

RANDOM = Random(5)
TEXT = [RANDOM.randrange(90) for _ in range(60)]
OPTIONS = {"dtype": "float32", "split": (2, 2, 2), "prefill_chunk_tokens": 4}
Expected = tuple[list[float], list[int]]


@pytest.fixture(scope="module")
def expected(tiny: Path) -> Expected:
    return scored_alone(tiny, TEXT)


@pytest.fixture
def ring(quick_watch: None) -> Iterator[RingInProcess]:
    with ring_in_process() as ring:
        for one in ring.names:
            for other in ring.names:
                ring.network.delay(one, other, 0.001)
        yield ring


def check(scores: Scores, expected: Expected, text: list[int] = TEXT) -> None:
    """Each token once, and as it is alone."""
    assert scores.token_ids == text
    assert scores.likeliest == expected[1]
    assert scores.log_likelihoods == pytest.approx(expected[0], abs=2e-4)


def at(num_tokens: int, then: Callable[[], object]) -> Callable[[int, int], None]:
    """Do something when so many tokens are scored."""

    def on_progress(done: int, _total: int) -> None:
        if done == num_tokens:
            then()

    return on_progress


@pytest.mark.parametrize("split", [[6], [1, 5], [5, 1], [3, 3], [2, 2, 2], [1, 1, 1, 1, 1, 1]])
def test_every_split_scores_as_transformers_does(tiny: Path, expected: Expected, split: list[int]) -> None:
    with loaded(tiny, split) as (_, model):
        progress: list[tuple[int, int]] = []
        scores = model.score(TEXT, on_progress=lambda *both: progress.append(both))
        check(scores, expected)
        assert progress == [(each, 59) for each in range(1, 60)]
        assert scores.log_likelihood == pytest.approx(sum(expected[0]), rel=1e-5)
        assert scores.is_likeliest == [one == other for one, other in zip(TEXT[1:], expected[1], strict=True)]
        check(model.score(TEXT[:2]), (expected[0][:1], expected[1][:1]), TEXT[:2])
        model._deployment.sessions.settle()  # type: ignore[attr-defined]
        assert {report.kv_reserved_bytes for report in model.report()} == {0}


def test_a_text_is_scored_beside_conversations_and_others(ring: RingInProcess, tiny: Path, expected: Expected) -> None:
    texts = [TEXT, TEXT[::-1], TEXT[20:]]
    with ring.connect() as cluster, load(cluster, tiny) as model, ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(answer, model, PROMPT, 24) for _ in range(3)]
        scored = [threads.submit(model.score, text) for text in texts]
        assert all(each.result() == alone(tiny, [PROMPT], 24)[0] for each in answers)
        for text, each in zip(texts, scored, strict=True):
            check(each.result(), scored_alone(tiny, text), text)


@pytest.mark.parametrize("lost", ["a", "b", "c"])
@pytest.mark.parametrize("num_told", [1, 21, 58])
def test_a_lost_device_changes_nothing(
    ring: RingInProcess, tiny: Path, expected: Expected, lost: str, num_told: int
) -> None:
    with ring.connect() as cluster, load(cluster, tiny) as model:
        check(model.score(TEXT, on_progress=at(num_told, lambda: ring.network.kill(lost))), expected)


@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_who_stands_ready_takes_over(
    tiny: Path, expected: Expected, quick_watch: None, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """What the head has found and told to nobody is lacking in copies of it: the text is scored from its beginning."""
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    num_copied = 0
    copy = Worker.copy_sessions

    def noting(worker: Worker, key: StageKey, wanted: CopyWanted) -> object:
        nonlocal num_copied
        num_copied += worker.name == "c" and wanted.last_unit == 5
        return copy(worker, key, wanted)

    monkeypatch.setattr(Worker, "copy_sessions", noting)
    with loaded(tiny, [2, 2, 2], standby="hot") as (ring, model), ThreadPoolExecutor(1) as threads:
        wait_until(lambda: sum(event.event == "standby" for event in model.events) >= 3)
        ring.network.drop("c", COORDINATOR, endpoint="tokens", count=10**6)
        scored = threads.submit(model.score, TEXT)
        [host] = [each for each in ring.workers["c"]._stages.hosts() if each.key[1] == 2]
        assert host.stage is not None
        recorder = host.stage.recorder
        wait_until(lambda: recorder.totals().num_tokens == 59)
        copied_before = num_copied
        wait_until(lambda: num_copied >= copied_before + 3)
        ring.network.kill(lost)
        ring.network.restore()
        check(scored.result(30), expected)


@pytest.mark.parametrize("seed", range(30))
def test_messages_are_lost_and_the_ring_is_exchanged(
    fast_model: tuple[RingInProcess, Model], monkeypatch: pytest.MonkeyPatch, seed: int, expected: Expected
) -> None:
    monkeypatch.setattr(sessions, "parts_of", cut_anywhere)
    ring, model = fast_model
    random = Random(seed)
    kinds, endpoints = ("drop", "drop answers", "duplicate"), ("tokens", "tokens", "bulk_hop", "open_session", "*")
    faults = [
        Fault(random.choice(kinds), "*", "*", random.choice(endpoints), random.randint(1, 3), random.choice((0, 4, 9)))
        for _ in range(random.randint(0, 5))
    ]
    put_into_force(ring.network, FaultSchedule(seed, tuple(faults), random.choice((0.0, 0.5)), 0))
    with ThreadPoolExecutor(1) as threads:
        scored = threads.submit(model.score, TEXT)
        for _ in range(random.choice((0, 1, 3))):
            model._deployment.renew()  # type: ignore[attr-defined]
        check(scored.result(timeout=60), expected)
    ring.network.restore()


@pytest.fixture(scope="module")
def fast_model(tiny: Path) -> Iterator[tuple[RingInProcess, Model]]:
    with loaded(tiny, [2, 2, 2], speed=100.0) as both:
        yield both


def test_the_text_stays_with_who_is_to_have_it(tiny: Path, monkeypatch: pytest.MonkeyPatch, expected: Expected) -> None:
    came: list[tuple[str, bool]] = []
    open_session = Worker.open_session

    def note(worker: Worker, ring_id: RingId, stage: int, spec: SessionSpec) -> object:
        came.append((worker.name, bool(spec.targets)))
        return open_session(worker, ring_id, stage, spec)

    monkeypatch.setattr(Worker, "open_session", note)
    options = {"dtype": "float32", "placement": "auto", "kv_memory_bytes": 400_000, "prefill_chunk_tokens": 4}
    with ring_in_process(3, memory_bytes=700_000) as ring, ring.connect() as cluster:
        with cluster.load(tiny, private_to="b", **options) as model:
            check(model.score(TEXT), expected)
    assert {name for name, has_text in came if has_text} == {"b"} and len({name for name, _ in came}) > 1


def test_what_cannot_be_scored_is_one_sentence(tiny: Path) -> None:
    with loaded(tiny, [3, 3]) as (_, model):
        with pytest.raises(BadRequest, match="the text has 4097 tokens, but the context holds 4096"):
            model.score([5] * 4097)
        with pytest.raises(BadRequest, match="a text of one token"):
            model.score([5])
        with pytest.raises(BadRequest, match="vocabulary"):
            model.score([5, 9999])
        with pytest.raises(BadRequest, match="empty"):
            model.score("")


def test_scores_that_are_no_numbers_end_the_text_and_nothing_else(tiny: Path) -> None:
    with loaded(tiny, [3, 3]) as (ring, model):
        [host] = ring.workers["b"]._stages.hosts()
        assert host.stage is not None
        weights = next(iter(host.stage.shard.units[-1].modules.values())).weight
        with torch.no_grad():
            kept = weights.clone()
            weights.fill_(float("nan"))
        with pytest.raises(BadRequest, match="no finite numbers"):
            model.score(TEXT)
        with torch.no_grad():
            weights.copy_(kept)
        assert answer(model, PROMPT, 4) == alone(tiny, [PROMPT], 4)[0]


class TestOverACluster:
    @pytest.fixture
    def cluster(self, tmp_path: Path, quick_watch: None) -> Iterator[LastingInProcess]:
        with lasting_in_process(3, folder=tmp_path / "state", speed=20.0) as cluster:
            yield cluster

    @pytest.fixture
    def model(self, cluster: LastingInProcess, tiny: Path) -> Model:
        cluster.coordinator.begin(str(tiny), OPTIONS).done.result(60)
        return cluster.connect().model

    def test_a_source_has_the_same(self, cluster: LastingInProcess, model: Model, expected: Expected) -> None:
        check(model.score(TEXT), expected)
        assert cluster.coordinator._desk.num_tokens == 0, "these are no tokens of answers"
        wait_until(lambda: cluster.num_sessions() == 0)
        [said] = cluster.told("session began")
        assert said.endswith("asks: a text of 60 tokens is to be scored.")
        with pytest.raises(BadRequest, match="Score it in parts"):
            model.score([5] * 4097)

    @pytest.mark.parametrize("lost", ["b", "c"])
    def test_a_device_is_lost(self, cluster: LastingInProcess, model: Model, expected: Expected, lost: str) -> None:
        cluster.network.delay("a", "b", 0.01)
        check(model.score(TEXT, on_progress=at(9, lambda: cluster.lose(lost))), expected)

    @pytest.mark.parametrize("kind", ["twice", "request", "answer"])
    def test_what_is_asked_gets_lost(
        self, cluster: LastingInProcess, model: Model, expected: Expected, kind: str
    ) -> None:
        cluster.disturb("@source-1", "start_session", kind)
        cluster.disturb("@source-1", "follow", kind)
        check(model.score(TEXT), expected)

    def test_its_coordinator_is_killed(self, cluster: LastingInProcess, model: Model, expected: Expected) -> None:
        """The text is not kept: who has asked is told to ask anew, and can."""
        cluster.network.delay("b", "c", 0.05)

        def kill() -> None:
            cluster.kill()
            cluster.restart()

        with pytest.raises(ClusterError, match="Ask anew"):
            model.score(TEXT, on_progress=at(5, kill))
