"""A source goes ahead of its answers with a draft of its own: real coordinator, stages and sources in one process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from in_process_ring import PROMPT, alone
from lasting_in_process import LastingInProcess, ids_of, lasting_in_process
from processes import wait_until

from shardnet.cluster.model import Model
from shardnet.errors import BadRequest, ModelNotFound, ShardnetError
from shardnet.source.running_cluster import RunningCluster
from shardnet.transport.listener_messages import digest
from shardnet.transport.offer_messages import MOST_IDS, Offer

OPTIONS: dict[str, Any] = {"dtype": "float32", "split": (2, 2, 2), "prefill_chunk_tokens": 4}
NUM_TOKENS = 24
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 40, "seed": 5, "repetition_penalty": 1.1}
ALWAYS = 10**6


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[int]:
    return alone(tiny, [PROMPT], NUM_TOKENS)[0]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LastingInProcess]:
    with lasting_in_process(3, folder=tmp_path / "state") as cluster:
        yield cluster


def begun(cluster: LastingInProcess, tiny: Path) -> Model:
    """The model of a source, and its draft is loaded."""
    cluster.coordinator.begin(str(tiny), OPTIONS).done.result(60)
    model = cluster.connect().model
    ids_of(model.stream(PROMPT, max_new_tokens=2, draft=str(tiny)))
    [engine] = model._drafts._engines.values()
    engine.result(60)
    return model


def slow_down(cluster: LastingInProcess) -> None:
    for name in cluster.workers:
        for other in cluster.workers:
            if other != name:
                cluster.network.delay(name, other, 0.02)


def specs_at(cluster: LastingInProcess, devices: str) -> list[Any]:
    hosts = [host for device in devices for host in cluster.workers[device]._stages.hosts()]
    return [live.spec for host in hosts if host.stage is not None for live in host.stage._sessions.all()]


def guesser_at_first(cluster: LastingInProcess) -> Any:
    [host] = cluster.workers["a"]._stages.hosts()
    assert host.stage is not None
    [live] = host.stage._sessions.all()
    return live.guesser


def test_a_source_has_the_answer_without_a_draft_sooner(
    cluster: LastingInProcess, tiny: Path, expected: list[int]
) -> None:
    model = begun(cluster, tiny)
    plain = ids_of(model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **SAMPLED))
    slow_down(cluster)
    hops: list[int] = []
    cluster.network.at("hop", 0, lambda: hops.append(1))
    assert ids_of(model.stream(PROMPT, max_new_tokens=NUM_TOKENS, draft=str(tiny))) == expected
    assert ids_of(model.stream(PROMPT, max_new_tokens=NUM_TOKENS, draft=str(tiny), **SAMPLED)) == plain


def test_only_the_first_stage_knows_the_key(cluster: LastingInProcess, tiny: Path) -> None:
    model = begun(cluster, tiny)
    cluster.network.drop("c", "a", endpoint="hop", count=ALWAYS, skip=3)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS, draft=str(tiny))
    next(stream)
    mine = stream._session.spec.offer_key
    assert [spec.offer_key for spec in specs_at(cluster, "abc")] == [mine, 0, 0] and mine
    assert mine not in (spec.listener.key for spec in specs_at(cluster, "c"))
    cluster.network.restore()


def test_nobody_else_has_guesses_checked(cluster: LastingInProcess, tiny: Path, expected: list[int]) -> None:
    """Another source knows all tokens, the ticket and the session's number, but not the key; nor is nonsense taken."""
    model = begun(cluster, tiny)
    cluster.network.drop("@source-1", "a", endpoint="offer", count=ALWAYS)
    cluster.network.drop("c", "a", endpoint="hop", count=ALWAYS, skip=3)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS, draft=str(tiny))
    next(stream)
    key, position = stream._session.spec.offer_key, len(PROMPT)
    [session] = cluster.coordinator._loads.loaded().model.deployment.sessions.under_way()  # type: ignore[attr-defined]
    member, wrong = cluster.network.join("@stranger"), (1, 2, 3)

    def offered(*content: Any) -> bool:
        return bool(member.post("a", "offer", Offer(*content)).result(5))

    before = digest(PROMPT)
    assert session.spec.listener is not None
    for other in (0, 1, session.spec.session, stream._session.spec.session, session.spec.listener.key):
        assert not offered(other, position, before, wrong)
    for nonsense in ((len(expected) + 1000,), (-1,), (5,) * (MOST_IDS + 1)):
        assert not offered(key, position, before, nonsense)
    assert offered(key, position, before + 1, wrong) and offered(key, 10**9, before, wrong)
    assert offered(key, -5, before, wrong)
    assert guesser_at_first(cluster).num_waiting == 0
    cluster.network.restore()


def test_an_answer_that_is_closed_takes_no_room_of_the_draft(cluster: LastingInProcess, tiny: Path) -> None:
    """However long its stream is held."""
    model = begun(cluster, tiny)
    [engine] = [each.result(60) for each in model._drafts._engines.values()]
    slow_down(cluster)
    stream = model.stream(PROMPT, max_new_tokens=200, draft=str(tiny))
    next(stream)
    wait_until(lambda: len(engine._open) == 1)
    stream.close()
    wait_until(lambda: not engine._open)
    late = engine.guess(stream._session.spec, PROMPT, print)
    stream._session.show(late)
    assert late.chain.is_over


def test_the_coordinator_dies_and_another_one_goes_on(
    cluster: LastingInProcess, tiny: Path, expected: list[int]
) -> None:
    model = begun(cluster, tiny)
    slow_down(cluster)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS, draft=str(tiny))
    next(stream)
    cluster.kill()
    cluster.restart()
    assert ids_of(stream) == expected


@pytest.mark.parametrize("lost", ["a", "c"])
def test_an_end_of_the_ring_is_lost(cluster: LastingInProcess, tiny: Path, lost: str) -> None:
    model, num_tokens = begun(cluster, tiny), 60
    plain = ids_of(model.stream(PROMPT, max_new_tokens=num_tokens, **SAMPLED))
    slow_down(cluster)
    stream = model.stream(PROMPT, max_new_tokens=num_tokens, draft=str(tiny), **SAMPLED)
    next(stream)
    cluster.lose(lost)
    assert ids_of(stream) == plain


def test_offers_that_do_not_arrive_are_missed_by_nobody(
    cluster: LastingInProcess, tiny: Path, expected: list[int]
) -> None:
    """As of a source that cannot reach the first stage; and nobody is asked in vain more than now and then."""
    model = begun(cluster, tiny)
    cluster.network.drop("@source-1", "a", endpoint="offer", count=ALWAYS)
    for _ in range(3):
        assert ids_of(model.stream(PROMPT, max_new_tokens=NUM_TOKENS, draft=str(tiny))) == expected


def broken_off(cluster: LastingInProcess, tiny: Path, **asked: Any) -> RunningCluster:
    """Another source, and an answer that broke off after some tokens."""
    model = begun(cluster, tiny)
    cluster.network.drop("c", "a", endpoint="hop", count=ALWAYS, skip=8)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **asked)
    next(stream)
    rings = cluster.coordinator._loads.loaded().model._deployment._rings  # type: ignore[attr-defined]
    rings.blueprint = replace(
        rings.blueprint, devices=tuple(replace(each, memory_bytes=2**10) for each in rings.blueprint.devices)
    )
    cluster.lose("b")
    with pytest.raises(ShardnetError, match="shardnet resume"):
        ids_of(stream)
    cluster.network.restore()
    cluster.join("d")
    source = cluster.connect()
    source.load(tiny, **{**OPTIONS, "split": [2, 2, 2]})
    return source


def test_an_answer_that_a_draft_went_ahead_of_is_resumed_without_it(
    cluster: LastingInProcess, tiny: Path, expected: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    source = broken_off(cluster, tiny, draft=str(tiny))
    with caplog.at_level(logging.WARNING, "shardnet"):
        assert ids_of(source.resume()) == expected
    said = "answer 1 was asked for with a draft, and goes on without one: none was named."
    assert [each for each in caplog.messages if "draft" in each] == [said]


@pytest.mark.parametrize("asked", [{}, {"speculate": "lookup"}, {"draft": True}])
def test_an_answer_is_resumed_with_a_draft(
    cluster: LastingInProcess, tiny: Path, expected: list[int], asked: dict[str, Any]
) -> None:
    """However it was asked for: whoever resumes it guesses."""
    source = broken_off(cluster, tiny, **({"draft": str(tiny)} if "draft" in asked else asked))
    ids_of(source.model.stream(PROMPT, max_new_tokens=2, draft=str(tiny)))
    [engine] = source.model._drafts._engines.values()
    engine.result(60)
    slow_down(cluster)
    stream = source.resume(draft=str(tiny))
    assert ids_of(stream) == expected
    assert stream.result.guesses_right > 0


def test_what_is_no_draft_is_refused_before_an_answer_goes_on(cluster: LastingInProcess, tiny: Path) -> None:
    source = broken_off(cluster, tiny)
    with pytest.raises(ModelNotFound):
        source.resume(draft="/no/such/model")
    with pytest.raises(BadRequest, match="a draft is a path or a hub id"):
        source.resume(draft=" ")
    assert len(source.broken_off) == 1
