"""How likely the tokens of an answer were: as `transformers` has it, for every split, with guesses, and whatever is
lost meanwhile. Over whole rings in this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from fault_schedules import Fault, FaultSchedule, put_into_force
from in_process_ring import PROMPT, RingInProcess, alone, loaded, ring_in_process
from lasting_in_process import LastingInProcess, ids_of, lasting_in_process
from processes import wait_until
from transformers import AutoModelForCausalLM

from shardnet.cluster import standby
from shardnet.cluster.cluster import COORDINATOR
from shardnet.cluster.model import Model
from shardnet.errors import BadRequest, KVMemorySpent
from shardnet.session import likelihoods
from shardnet.session.sessions import Sessions
from shardnet.session.stream import Generation, Stream

NUM_TOKENS = 24
LOADED: dict[str, Any] = {"dtype": "float32", "split": (2, 2, 2), "prefill_chunk_tokens": 4}
NUM_BEST = 3
ASKED: dict[str, Any] = {"max_new_tokens": NUM_TOKENS, "logprobs": NUM_BEST}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 40, "presence_penalty": 0.5, "logit_bias": {40: 2}, "seed": 3}
TOLERANCE = 2e-4


class Expected:
    """What `transformers` finds of an answer."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        [self.plain] = alone(folder, [PROMPT], NUM_TOKENS)

    def check(self, result: Generation, ids: list[int] | None = None, num_best: int = NUM_BEST) -> None:
        """Each token says how likely it was to the model, whatever it was chosen by."""
        assert result.token_ids == (self.plain if ids is None else ids)
        assert result.logprobs is not None and [each.token_id for each in result.logprobs] == result.token_ids
        with torch.no_grad():
            logits = self._model(torch.tensor([[*PROMPT, *result.token_ids]])).logits[0, len(PROMPT) - 1 : -1]
        expected = logits.log_softmax(-1)
        for found, row in zip(result.logprobs, expected, strict=True):
            assert found.logprob == pytest.approx(row[found.token_id].item(), abs=TOLERANCE)
            best = [each.logprob for each in found.alternatives]
            assert best == sorted(best, reverse=True)
            assert best == pytest.approx(row.topk(num_best).values.tolist(), abs=TOLERANCE)
            told = [row[each.token_id].item() for each in found.alternatives]
            assert best == pytest.approx(told, abs=TOLERANCE)


@pytest.fixture(scope="module")
def expected(tiny: Path) -> Expected:
    return Expected(tiny)


def read(stream: Stream, num_tokens: int) -> None:
    """Wait for so many tokens of an answer."""
    for _ in zip(range(num_tokens), stream.ids(), strict=False):
        pass


@pytest.mark.parametrize("speculate", ["off", "lookup"])
@pytest.mark.parametrize("split", [[6], [1, 5], [5, 1], [2, 2, 2]])
def test_every_split_says_what_transformers_does(
    tiny: Path, split: list[int], speculate: str, expected: Expected
) -> None:
    with loaded(tiny, split) as (_, model):
        [plain, other] = model.generate([PROMPT, PROMPT], speculate=speculate, **ASKED)
        expected.check(plain)
        expected.check(other)
        [silent] = model.generate([PROMPT], max_new_tokens=NUM_TOKENS, speculate=speculate, **SAMPLED)
        [sampled] = model.generate([PROMPT], speculate=speculate, **ASKED, **SAMPLED)
        assert silent.logprobs is None
        expected.check(sampled, silent.token_ids)
        [alone] = model.generate([PROMPT], max_new_tokens=NUM_TOKENS, logprobs=0)
        expected.check(alone, num_best=0)


def test_pieces_come_with_their_tokens(tiny: Path, expected: Expected) -> None:
    with loaded(tiny, [3, 3]) as (_, model):
        end = expected.plain[15]
        stream = model.stream(PROMPT, stop_token_ids=end, **ASKED)
        pieces = list(stream.pieces())
        result = stream.result
        assert "".join(piece.text for piece in pieces) == result.text
        assert [each for piece in pieces for each in piece.logprobs] == result.logprobs
        assert [each for piece in pieces for each in piece.token_ids] == result.token_ids
        assert all(piece.text for piece in pieces[:-1]) and pieces[-1].token_ids[-1] == end
        assert result.logprobs is not None
        assert [each.text for each in result.logprobs] == [model.tokenizer.decode([each]) for each in result.token_ids]
        plain = list(model.stream(PROMPT, max_new_tokens=4).pieces())
        assert [each for piece in plain for each in piece.token_ids] == expected.plain[:4]
        assert not any(piece.logprobs for piece in plain)


@pytest.mark.parametrize("lost", ["a", "b", "c"])
@pytest.mark.parametrize("num_told", [1, 11, NUM_TOKENS - 1])
@pytest.mark.parametrize("speculate", ["off", "lookup"])
def test_a_lost_device_changes_nothing(
    tiny: Path, quick_watch: None, lost: str, num_told: int, speculate: str, expected: Expected
) -> None:
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        ring.slow_down(0.001)
        stream = model.stream(PROMPT, speculate=speculate, **ASKED)
        read(stream, num_told)
        ring.network.kill(lost)
        read(stream, NUM_TOKENS)
        expected.check(stream.result)


def held_from_the_source(ring: RingInProcess, model: Model, head: str) -> Stream:
    """An answer of which the stages know more than its source has heard."""
    ring.slow_down(0.001)
    stream = model.stream(PROMPT, **ASKED)
    read(stream, 5)
    ring.network.drop(head, COORDINATOR, endpoint="tokens", count=10**6)
    [first] = [host.stage for host in ring.workers["a"]._stages.hosts() if host.stop[1] == 0]
    assert first is not None
    wait_until(lambda: first.recorder.totals().num_tokens >= len(PROMPT) + NUM_TOKENS - 3)
    return stream


def test_a_token_that_is_known_by_its_id_alone_is_scored(
    tiny: Path, quick_watch: None, monkeypatch: pytest.MonkeyPatch, expected: Expected
) -> None:
    """All such tokens by one text. Its memory is there beside the answer's."""
    texts = scored_texts(monkeypatch)
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        stream = held_from_the_source(ring, model, "c")
        ring.network.kill("c")
        ring.network.restore()
        read(stream, NUM_TOKENS)
        expected.check(stream.result)
        assert len(texts) == 1 and texts[0] >= len(PROMPT) + NUM_TOKENS - 3


def scored_texts(monkeypatch: pytest.MonkeyPatch, refused: int = 0) -> list[int]:
    """Lengths of the texts that are scored from now on. For the first ones there is no memory."""
    texts: list[int] = []
    score = Sessions.score

    def noting(sessions: Sessions, ids: list[int], num_alternatives: int = 0) -> object:
        texts.append(len(ids))
        if len(texts) <= refused:
            raise KVMemorySpent("no room")
        return score(sessions, ids, num_alternatives)

    monkeypatch.setattr(Sessions, "score", noting)
    return texts


@pytest.mark.parametrize("refused", [1, 3])
def test_where_no_memory_is_there_beside_it_the_answer_comes_first(
    tiny: Path, quick_watch: None, monkeypatch: pytest.MonkeyPatch, refused: int, expected: Expected
) -> None:
    monkeypatch.setattr(likelihoods, "LOOK_AGAIN_S", 0.01)
    texts = scored_texts(monkeypatch, refused)
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        stream = held_from_the_source(ring, model, "c")
        ring.network.kill("c")
        ring.network.restore()
        read(stream, NUM_TOKENS)
        expected.check(stream.result)
        assert texts[-1] == len(PROMPT) + NUM_TOKENS and len(texts) == refused + 1


def test_memory_that_is_never_there_is_an_error_and_no_gap(
    tiny: Path, quick_watch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihoods, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(likelihoods, "ROOM_S", 0.1)
    scored_texts(monkeypatch, 10**6)
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        stream = held_from_the_source(ring, model, "c")
        ring.network.kill("c")
        ring.network.restore()
        with pytest.raises(KVMemorySpent):
            read(stream, NUM_TOKENS)
        result = stream.result
        assert result.logprobs is not None and len(result.logprobs) == len(result.token_ids) < NUM_TOKENS


def test_who_is_closed_while_it_is_scored_ends(
    tiny: Path, quick_watch: None, monkeypatch: pytest.MonkeyPatch, expected: Expected
) -> None:
    streams: list[Stream] = []
    score = Sessions.score

    def closing(sessions: Sessions, ids: list[int], num_alternatives: int = 0) -> object:
        scoring = score(sessions, ids, num_alternatives)
        streams[0].close()
        return scoring

    monkeypatch.setattr(Sessions, "score", closing)
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        streams.append(held_from_the_source(ring, model, "c"))
        ring.network.kill("c")
        ring.network.restore()
        read(streams[0], NUM_TOKENS)
        result = streams[0].result
        assert result.finish_reason == "cancelled"
        expected.check(result, expected.plain[: len(result.token_ids)])
        wait_until(lambda: model.deployment.sessions.num_open == 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_who_stands_ready_takes_over(
    tiny: Path, quick_watch: None, monkeypatch: pytest.MonkeyPatch, lost: str, expected: Expected
) -> None:
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    with loaded(tiny, [2, 2, 2], standby="hot") as (ring, model):
        wait_until(lambda: sum(event.event == "standby" for event in model.events) >= 3)
        stream = held_from_the_source(ring, model, "c")
        ring.network.kill(lost)
        ring.network.restore()
        read(stream, NUM_TOKENS)
        expected.check(stream.result)


@pytest.mark.parametrize("seed", range(20))
def test_messages_are_lost_and_the_ring_is_exchanged(
    fast_model: tuple[RingInProcess, Model], seed: int, expected: Expected
) -> None:
    ring, model = fast_model
    random = Random(seed)
    kinds, endpoints = ("drop", "drop answers", "duplicate"), ("tokens", "tokens", "hop", "open_session")
    faults = [
        Fault(random.choice(kinds), "*", "*", random.choice(endpoints), random.randint(1, 3), random.choice((0, 4, 9)))
        for _ in range(random.randint(0, 5))
    ]
    put_into_force(ring.network, FaultSchedule(seed, tuple(faults), random.choice((0.0, 0.5)), 0))
    stream = model.stream(PROMPT, speculate=random.choice(("off", "lookup")), **ASKED)
    for _ in range(random.choice((0, 1, 3))):
        read(stream, random.randint(0, 6))
        model._deployment.renew()  # type: ignore[attr-defined]
    read(stream, NUM_TOKENS)
    expected.check(stream.result)
    ring.network.restore()


@pytest.fixture(scope="module")
def fast_model(tiny: Path) -> Iterator[tuple[RingInProcess, Model]]:
    with ring_in_process(3, speed=100.0) as ring, ring.connect() as cluster:
        yield ring, cluster.load(tiny, dtype="float32", split=[2, 2, 2], prefill_chunk_tokens=4)


def test_a_text_that_is_scored_has_alternatives_too(tiny: Path, expected: Expected) -> None:
    text = [*PROMPT, *expected.plain]
    with loaded(tiny, [3, 3]) as (_, model):
        scores = model.score(text, logprobs=2)
        assert [len(each) for each in scores.alternatives] == [2] * (len(text) - 1)
        assert [each[0][0] for each in scores.alternatives] == scores.likeliest
        assert not any(model.score(text).alternatives)
        with pytest.raises(BadRequest, match="logprobs must be at most 20, but is 21"):
            model.score(text, logprobs=21)
        with pytest.raises(BadRequest, match="logprobs must be -1"):
            model.stream(text, logprobs=21)


class TestOverACluster:
    @pytest.fixture
    def cluster(self, tmp_path: Path, tiny: Path, quick_watch: None) -> Iterator[LastingInProcess]:
        with lasting_in_process(3, folder=tmp_path / "state", speed=20.0) as cluster:
            cluster.coordinator.begin(str(tiny), LOADED).done.result(60)
            cluster.network.delay("b", "c", 0.2)
            yield cluster

    @pytest.mark.parametrize("speculate", ["off", "lookup"])
    def test_a_source_has_the_same(self, cluster: LastingInProcess, speculate: str, expected: Expected) -> None:
        stream = cluster.connect().model.stream(PROMPT, speculate=speculate, **ASKED)
        read(stream, NUM_TOKENS)
        expected.check(stream.result)

    @pytest.mark.parametrize("endpoint", ["hear", "tokens"])
    def test_one_of_both_ways_is_cut(self, cluster: LastingInProcess, endpoint: str, expected: Expected) -> None:
        cluster.network.drop("c", "@source-1" if endpoint == "hear" else COORDINATOR, endpoint=endpoint, count=9)
        stream = cluster.connect().model.stream(PROMPT, **ASKED)
        read(stream, NUM_TOKENS)
        expected.check(stream.result)

    @pytest.mark.parametrize("num_told", [1, 9, 20])
    @pytest.mark.parametrize("lost", ["b", "c"])
    def test_a_device_is_lost(self, cluster: LastingInProcess, lost: str, num_told: int, expected: Expected) -> None:
        stream = cluster.connect().model.stream(PROMPT, **ASKED)
        read(stream, num_told)
        cluster.lose(lost)
        read(stream, NUM_TOKENS)
        expected.check(stream.result)

    @pytest.mark.parametrize("is_heard", [True, False])
    def test_its_coordinator_is_killed(
        self, cluster: LastingInProcess, tiny: Path, is_heard: bool, expected: Expected
    ) -> None:
        source = cluster.connect()
        stream = source.model.stream(PROMPT, **ASKED)
        read(stream, 5)
        if not is_heard:
            cluster.network.drop("c", "@source-1", endpoint="hear", count=10**6)
        cluster.kill()
        cluster.restart()
        cluster.coordinator.begin(str(tiny), LOADED)
        read(stream, NUM_TOKENS)
        expected.check(stream.result)

    @pytest.mark.parametrize("num_told", [1, 5, 20])
    def test_an_answer_that_broke_off_is_resumed(
        self, cluster: LastingInProcess, tiny: Path, num_told: int, expected: Expected
    ) -> None:
        """By another source, which has heard nothing of it."""
        source = cluster.connect()
        stream = source.model.stream(PROMPT, **ASKED)
        read(stream, num_told)
        source.unload()
        with pytest.raises(BadRequest, match="shardnet resume 1"):
            ids_of(stream)
        other = cluster.connect()
        other.load(tiny, dtype="float32", split=(3, 2, 1), prefill_chunk_tokens=4)
        resumed = other.resume()
        read(resumed, NUM_TOKENS)
        expected.check(resumed.result)
