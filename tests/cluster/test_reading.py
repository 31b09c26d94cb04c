"""Rows of texts through a ring: all of them, each once and as `transformers` has them, whatever the split, and whatever
is lost meanwhile. Over a whole ring in this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
import torch
from fault_schedules import Fault, FaultSchedule, cut_anywhere, put_into_force
from in_process_ring import PROMPT, RingInProcess, alone, answer, load, loaded, ring_in_process
from lasting_in_process import LastingInProcess, lasting_in_process
from processes import wait_until
from torch import Tensor

from shardnet.cluster import standby
from shardnet.cluster.model import Model
from shardnet.device.worker import Worker
from shardnet.errors import BadRequest, ClusterError, KVMemorySpent, UnsupportedModel
from shardnet.session import alike, beginnings, reading, route, sessions
from shardnet.session.session import Session
from shardnet.session.sessions import Sessions
from shardnet.stage import kept_rows
from shardnet.stage.stage import Stage
from shardnet.transport.messages import RingId
from shardnet.transport.rows_messages import RowsAsked
from shardnet.transport.session_messages import SessionSpec
from shardnet.transport.sharing_messages import Shares

RANDOM = Random(7)
TEXT = [RANDOM.randrange(90) for _ in range(60)]
OPTIONS = {"dtype": "float32", "split": (2, 2, 2), "prefill_chunk_tokens": 4}


class Expected(NamedTuple):
    logits: Tensor
    hidden: Tensor


def read_alone(folder: Path, ids: list[int]) -> Expected:
    """As `transformers` has it: fp32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return Expected(
            model(torch.tensor([ids])).logits[0], model.base_model(torch.tensor([ids])).last_hidden_state[0]
        )


@pytest.fixture(scope="module")
def expected(tiny: Path) -> Expected:
    return read_alone(tiny, TEXT)


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a text's rows come in several answers."""
    monkeypatch.setattr(kept_rows, "MOST_ROW_BYTES", 7 * 4 * 128)


@pytest.fixture
def ring(quick_watch: None) -> Iterator[RingInProcess]:
    with ring_in_process() as ring:
        for one in ring.names:
            for other in ring.names:
                ring.network.delay(one, other, 0.001)
        yield ring


def check(rows: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(rows, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("split", [[6], [1, 5], [5, 1], [3, 3], [2, 2, 2], [1, 1, 1, 1, 1, 1]])
def test_every_split_gives_the_rows_of_transformers(tiny: Path, expected: Expected, split: list[int]) -> None:
    with loaded(tiny, split) as (_, model):
        check(model.logits(TEXT), expected.logits)
        check(model.logits(TEXT, positions="last"), expected.logits[-1:])
        check(model.hidden_states(TEXT), expected.hidden)
        check(model.embed([TEXT, TEXT[:9]]), expected.hidden[[-1, 8]])
        check(model.embed([TEXT], pooling="mean"), expected.hidden.mean(0, keepdim=True))
        model._deployment.sessions.settle()  # type: ignore[attr-defined]
        assert {report.kv_reserved_bytes for report in model.report()} == {0}


def test_texts_are_read_beside_conversations_and_others(ring: RingInProcess, tiny: Path, expected: Expected) -> None:
    with ring.connect() as cluster, load(cluster, tiny) as model, ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(answer, model, PROMPT, 24) for _ in range(3)]
        read = [threads.submit(model.logits, TEXT) for _ in range(3)]
        embedded = model.embed([TEXT[:end] for end in range(1, 41)])
        assert all(each.result() == alone(tiny, [PROMPT], 24)[0] for each in answers)
        for each in read:
            check(each.result(), expected.logits)
        check(embedded, expected.hidden[:40])


@pytest.mark.parametrize("lost", ["a", "b", "c"])
@pytest.mark.parametrize("num_come", [0, 20, 55])
def test_a_lost_device_changes_nothing(
    ring: RingInProcess, tiny: Path, expected: Expected, lost: str, num_come: int
) -> None:
    with ring.connect() as cluster, load(cluster, tiny) as model:
        came: list[Tensor] = []
        session = model._deployment.sessions.read(TEXT, RowsAsked(0))
        for rows in reading.rows_of(session, len(TEXT), RowsAsked(0)):
            if sum(map(len, came)) <= num_come < sum(map(len, came)) + len(rows):
                ring.network.kill(lost)
            came.append(rows)
        check(torch.cat(came), expected.hidden)


@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_who_stands_ready_takes_over(
    tiny: Path, expected: Expected, quick_watch: None, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    with loaded(tiny, [2, 2, 2], standby="hot") as (ring, model):
        wait_until(lambda: sum(event.event == "standby" for event in model.events) >= 3)
        session = model._deployment.sessions.read(TEXT, RowsAsked(0, are_logits=True))
        rows = reading.rows_of(session, len(TEXT), RowsAsked(0))
        came = [next(rows)]
        ring.network.kill(lost)
        check(torch.cat([*came, *rows]), expected.logits)


@pytest.fixture(scope="module")
def fast_model(tiny: Path) -> Iterator[tuple[RingInProcess, Model]]:
    with loaded(tiny, [2, 2, 2], speed=100.0) as both:
        yield both


@pytest.mark.parametrize("seed", range(30))
def test_messages_are_lost_and_the_ring_is_exchanged(
    fast_model: tuple[RingInProcess, Model], monkeypatch: pytest.MonkeyPatch, seed: int, expected: Expected
) -> None:
    monkeypatch.setattr(sessions, "parts_of", cut_anywhere)
    monkeypatch.setattr(route, "OPEN_SESSION_TRIES", 16)  # so many of its messages may be lost
    ring, model = fast_model
    random = Random(seed)
    kinds, endpoints = (
        ("drop", "drop answers", "duplicate"),
        ("read_rows", "read_rows", "bulk_hop", "open_session", "*"),
    )
    faults = [
        Fault(random.choice(kinds), "*", "*", random.choice(endpoints), random.randint(1, 3), random.choice((0, 4, 9)))
        for _ in range(random.randint(0, 5))
    ]
    put_into_force(ring.network, FaultSchedule(seed, tuple(faults), random.choice((0.0, 0.5)), 0))
    with ThreadPoolExecutor(1) as threads:
        read = threads.submit(model.hidden_states if seed % 2 else model.logits, TEXT)
        for _ in range(random.choice((0, 1, 3))):
            model._deployment.renew()  # type: ignore[attr-defined]
        check(read.result(timeout=60), expected.hidden if seed % 2 else expected.logits)
    ring.network.restore()


@pytest.mark.parametrize("seed", range(30))
def test_a_text_that_grows_is_read_on_whatever_is_lost(
    fast_model: tuple[RingInProcess, Model], monkeypatch: pytest.MonkeyPatch, seed: int, expected: Expected
) -> None:
    """Parts of it are read one behind the other, and branch off, as beams do: each begins with what is there."""
    monkeypatch.setattr(beginnings, "LEAST_TOKENS", 1)
    monkeypatch.setattr(route, "OPEN_SESSION_TRIES", 16)
    ring, model = fast_model
    random = Random(seed)
    kinds, endpoints = ("drop", "drop answers", "duplicate"), ("read_rows", "bulk_hop", "open_session", "*")
    faults = [
        Fault(random.choice(kinds), "*", "*", random.choice(endpoints), random.randint(1, 3), random.choice((0, 4, 9)))
        for _ in range(random.randint(0, 5))
    ]
    put_into_force(ring.network, FaultSchedule(seed, tuple(faults), random.choice((0.0, 0.5)), 0))
    end = random.randint(1, 20)
    for _ in range(8):
        begin, end = max(end - random.randint(0, 3), 0), min(end + random.randint(1, 9), len(TEXT))
        texts = [TEXT[:end]] * random.randint(1, 3)
        wrong = [*TEXT[:begin], *(each + 1 for each in TEXT[begin:end])]  # begins alike, and is another one
        asked = [(ids, RowsAsked(begin, True, True)) for ids in [*texts, wrong]]
        random.shuffle(asked)
        if random.random() < 0.2:
            model._deployment.renew()  # type: ignore[attr-defined]
        for (ids, _), rows in zip(asked, model.read(asked), strict=True):
            if ids != wrong:
                check(rows, expected.logits[begin:end])
    ring.network.restore()


def test_no_row_that_is_asked_for_is_shared(tiny: Path, expected: Expected) -> None:
    """Whatever a stage is told to begin with: it has no hidden states of what it did not compute."""
    with loaded(tiny, [3, 3]) as (_, model):
        sessions = model._deployment.sessions
        model.read([(TEXT, RowsAsked(59, True, True))])
        shared_by = Sessions._shared_by

        def all_of_it(self: Sessions, session: Session) -> Shares | None:
            found = shared_by(self, session)
            assert found is not None
            return Shares(found.session, 59, tuple(TEXT[:59]))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Sessions, "_shared_by", all_of_it)
            session = sessions.read(TEXT, RowsAsked(40, True, True))
        check(torch.cat(list(reading.rows_of(session, 60, RowsAsked(40)))), expected.logits[40:])
        assert session.num_shared == 40


def test_rows_are_told_where_the_head_is_alone(tiny: Path, monkeypatch: pytest.MonkeyPatch, expected: Expected) -> None:
    came: list[tuple[str, bool]] = []
    open_session = Worker.open_session

    def note(worker: Worker, ring_id: RingId, stage: int, spec: SessionSpec) -> object:
        came.append((worker.name, spec.rows is not None))
        return open_session(worker, ring_id, stage, spec)

    monkeypatch.setattr(Worker, "open_session", note)
    with loaded(tiny, [2, 2, 2]) as (_, model):
        check(model.hidden_states(TEXT), expected.hidden)
    assert sorted(came) == [("a", False), ("b", False), ("c", True)]


def head_stage(ring: RingInProcess, device: str) -> Stage:
    [host] = ring.workers[device]._stages.hosts()
    assert host.stage is not None
    return host.stage


def test_texts_wait_for_memory_where_the_head_is(tiny: Path, expected: Expected) -> None:
    with loaded(tiny, [3, 3]) as (ring, model):
        budget = head_stage(ring, "b").kv.budget
        before = budget.needed_bytes
        one = (model.profile.units[4].kv_bytes_per_token * 2 + 4 * expected.hidden.shape[1]) * len(TEXT)
        budget.limit_bytes = before + 3 * one
        found = model.embed([TEXT] * 20, pooling="mean")
        check(found, expected.hidden.mean(0, keepdim=True).expand(20, -1))
        wait_until(lambda: budget.needed_bytes == before)  # what was kept is given back
        budget.limit_bytes = before + one // 4
        with pytest.raises(KVMemorySpent):
            model.embed([TEXT])
        assert budget.needed_bytes == before


@pytest.mark.parametrize("options", [{"weights": "int8"}, {"kv_dtype": "int8"}, {"wire": "float16"}])
def test_what_is_rounded_is_so_for_rows_and_scores(tiny: Path, options: dict[str, str]) -> None:
    with loaded(tiny, [2, 2, 2], **options) as (_, model):
        found = model.logits(TEXT)[:-1].log_softmax(-1).gather(1, torch.tensor(TEXT[1:])[:, None])[:, 0]
        assert model.score(TEXT).log_likelihoods == pytest.approx(found.tolist(), abs=2e-4)


def test_nobody_waits_for_a_text_that_is_only_read(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt that begins like it: no token says that it is computed."""
    monkeypatch.setattr(alike, "WAIT_S", 3600.0)
    with loaded(tiny, [3, 3]) as (_, model):
        session = model._deployment.sessions.read(TEXT, RowsAsked(0))
        assert answer(model, [*TEXT, 5], 4) == alone(tiny, [[*TEXT, 5]], 4)[0]
        session.cancel()


def test_what_cannot_be_read_is_one_sentence(tiny: Path) -> None:
    with loaded(tiny, [3, 3]) as (_, model):
        with pytest.raises(BadRequest, match="the text has 4097 tokens, but the context holds 4096"):
            model.logits([5] * 4097)
        with pytest.raises(BadRequest, match="positions must be one of all, last"):
            model.logits([5], positions="first")
        with pytest.raises(BadRequest, match="pooling must be last or mean"):
            model.embed([[5]], pooling="max")
        with pytest.raises(BadRequest, match="Put it into a list"):
            model.embed("a text")
        with pytest.raises(UnsupportedModel, match="tells no classes apart"):
            model.classify([[5]])


def test_rows_that_are_no_numbers_end_the_text_and_nothing_else(tiny: Path) -> None:
    with loaded(tiny, [3, 3]) as (ring, model):
        weights = next(iter(head_stage(ring, "b").shard.units[-1].modules.values())).weight
        with torch.no_grad():
            kept = weights.clone()
            weights.fill_(float("nan"))
        with pytest.raises(BadRequest, match="no finite numbers"):
            model.embed([TEXT, TEXT])
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
        check(model.logits(TEXT), expected.logits)
        check(model.embed([TEXT[:end] for end in range(1, 25)]), expected.hidden[:24])
        assert cluster.coordinator._desk.num_tokens == 0, "these are no tokens of answers"
        wait_until(lambda: cluster.num_sessions() == 0)
        assert cluster.told("session began")[0].endswith("asks: a text of 60 tokens is to be read.")
        with pytest.raises(BadRequest, match="the text has 4097 tokens"):
            model.logits([5] * 4097)

    @pytest.mark.parametrize("lost", ["b", "c"])
    def test_a_device_is_lost(self, cluster: LastingInProcess, model: Model, expected: Expected, lost: str) -> None:
        cluster.network.delay("a", "b", 0.01)
        session = model._deployment.sessions.read(TEXT, RowsAsked(0))
        rows = reading.rows_of(session, len(TEXT), RowsAsked(0))
        came = [next(rows)]
        cluster.lose(lost)
        check(torch.cat([*came, *rows]), expected.hidden)

    @pytest.mark.parametrize("kind", ["twice", "request", "answer"])
    def test_what_is_asked_gets_lost(
        self, cluster: LastingInProcess, model: Model, expected: Expected, kind: str
    ) -> None:
        cluster.disturb("@source-1", "start_session", kind)
        cluster.disturb("@source-1", "read_rows", kind)
        check(model.logits(TEXT), expected.logits)

    def test_its_coordinator_is_killed(
        self, cluster: LastingInProcess, model: Model, tiny: Path, expected: Expected
    ) -> None:
        """The text is not kept: who has asked is told to ask anew, and can."""
        session = model._deployment.sessions.read(TEXT, RowsAsked(0))
        rows = reading.rows_of(session, len(TEXT), RowsAsked(0))
        next(rows)
        cluster.kill()
        cluster.restart()
        with pytest.raises(ClusterError, match="Ask anew"):
            list(rows)
        cluster.coordinator.begin(str(tiny), OPTIONS).done.result(60)
        check(cluster.connect().model.hidden_states(TEXT), expected.hidden)
        wait_until(lambda: cluster.num_sessions() == 0)
