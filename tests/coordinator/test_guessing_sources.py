"""Answers with guessed tokens, of weights of few bits, that outlive sources, devices and coordinators: the tokens are
those of an undisturbed run without guesses. Real stages, coordinators and sources in one process, and a state folder.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from guesses import Oracle
from lasting_in_process import LastingInProcess, ids_of, lasting_in_process
from processes import wait_until

from shardnet.cluster.model import Model
from shardnet.errors import ShardnetError
from shardnet.session.stream import Stream
from shardnet.stage import front

OPTIONS: dict[str, Any] = {"dtype": "float32", "weights": "int4", "split": (2, 2, 2), "prefill_chunk_tokens": 4}
PROMPTS = [[5 + index % 90 for index in range(30)], [40, 41] * 8]
NUM_TOKENS = 90
GREEDY: dict[str, Any] = {}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 20, "repetition_penalty": 1.3, "seed": 11}
WAYS = list(zip(PROMPTS, (GREEDY, SAMPLED), strict=True))
HOP_S = 0.001


@pytest.fixture(scope="module")
def undisturbed(tiny: Path) -> list[list[int]]:
    """To each prompt in its way."""
    with lasting_in_process(3) as cluster:
        model = begun(cluster, tiny)
        return [ids_of(model.stream(prompt, max_new_tokens=NUM_TOKENS, **how)) for prompt, how in WAYS]


@pytest.fixture
def oracle(undisturbed: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> Oracle:
    oracle = Oracle([prompt + ids for prompt, ids in zip(PROMPTS, undisturbed, strict=True)], 0.8)
    monkeypatch.setattr(front, "Guesser", oracle.guesser)
    return oracle


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LastingInProcess]:
    with lasting_in_process(3, folder=tmp_path / "state") as cluster:
        for one in "abc":
            for other in "abc":
                cluster.network.delay(one, other, HOP_S)
        yield cluster


def begun(cluster: LastingInProcess, model: Path) -> Model:
    cluster.coordinator.begin(str(model), OPTIONS).done.result(60)
    return cluster.connect().model


def begin(model: Model) -> list[Stream]:
    return [model.stream(prompt, max_new_tokens=NUM_TOKENS, speculate="lookup", **how) for prompt, how in WAYS]


def read(stream: Stream, num_tokens: int) -> None:
    for _ in range(num_tokens):
        next(stream, "")


@pytest.mark.parametrize("seed", range(3))
def test_guessing_goes_on_whenever_the_coordinator_is_killed(
    cluster: LastingInProcess, tiny: Path, undisturbed: list[list[int]], oracle: Oracle, seed: int
) -> None:
    """Twice, at random moments; and a device is lost in between."""
    chance = random.Random(seed)
    streams = begin(begun(cluster, tiny))
    with ThreadPoolExecutor(2) as threads:
        read(streams[0], chance.randint(0, 30))
        answers = [threads.submit(ids_of, stream) for stream in streams]
        cluster.kill()
        time.sleep(chance.uniform(0, 0.1))
        cluster.restart()
        beginning = cluster.coordinator.begin(str(tiny), OPTIONS)
        time.sleep(chance.uniform(0, 0.2))
        if chance.random() < 0.5:
            beginning.done.result(30)
        cluster.kill()
        lost = chance.choice("abc-")
        if lost != "-":
            cluster.network.kill(lost)
        cluster.restart()
        cluster.coordinator.begin(str(tiny), OPTIONS).done.result(60)
        assert [answer.result(60) for answer in answers] == undisturbed
    assert oracle.num_right > 10


@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_an_answer_that_broke_off_in_the_midst_of_guesses_is_resumed_with_them(
    cluster: LastingInProcess, tiny: Path, undisturbed: list[list[int]], oracle: Oracle, lost: str
) -> None:
    streams = begin(begun(cluster, tiny))
    read(streams[0], 12)
    lose_where_nobody_has_room(cluster, lost)
    for stream in streams:
        with pytest.raises(ShardnetError, match="shardnet resume"):
            ids_of(stream)
    known = [stream.result.token_ids for stream in streams]
    assert [undisturbed[number][: len(each)] for number, each in enumerate(known)] == known
    cluster.join("d")
    source = cluster.connect()
    source.load(tiny, **OPTIONS)
    assert source.model.generate([PROMPTS[0]], max_new_tokens=5)[0].token_ids == undisturbed[0][:5]
    num_guessed = oracle.num_guessed
    found = [ids_of(source.resume(each.number)) for each in sorted(source.broken_off, key=lambda each: each.number)]
    assert sorted(found) == sorted(undisturbed) and oracle.num_guessed > num_guessed


def lose_where_nobody_has_room(cluster: LastingInProcess, device: str) -> None:
    from dataclasses import replace

    rings = cluster.coordinator._loads.loaded().model._deployment._rings  # type: ignore[attr-defined]
    assert rings is not None and rings.blueprint is not None
    full = tuple(replace(each, memory_bytes=2**10) for each in rings.blueprint.devices)
    rings.blueprint = replace(rings.blueprint, devices=full)
    cluster.lose(device)


def test_an_answer_whose_source_is_killed_is_resumed_by_another(
    tmp_path: Path, tiny: Path, undisturbed: list[list[int]], oracle: Oracle
) -> None:
    with lasting_in_process(3, folder=tmp_path / "state", lease_s=1.0) as cluster:
        streams = begin(begun(cluster, tiny))
        read(streams[0], 3)
        cluster.network.kill("@source-1")
        source = cluster.connect()
        wait_until(lambda: len(source.broken_off) == 2 and cluster.num_sessions() == 0, 20)
        numbers = sorted(each.number for each in source.broken_off)
        assert sorted(map(ids_of, map(source.resume, numbers))) == sorted(undisturbed)
        del streams
    assert oracle.num_right > 10


def test_the_device_that_samples_dies_before_anybody_but_the_source_has_heard(
    cluster: LastingInProcess, tiny: Path, undisturbed: list[list[int]], oracle: Oracle
) -> None:
    """Several tokens at a time come straight to a source: none of them is sampled anew."""
    model = begun(cluster, tiny)
    streams = begin(model)
    read(streams[0], 10)
    cluster.lose("c")
    cluster.network.restore()
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(ids_of, streams)) == undisturbed
    assert oracle.num_right > 10


def test_eight_sources_guess_at_once_and_go_at_any_moment(
    cluster: LastingInProcess, tiny: Path, undisturbed: list[list[int]], oracle: Oracle
) -> None:
    chance = random.Random(0)
    begun(cluster, tiny)

    def ask(number: int, num_tokens: int) -> None:
        source = cluster.connect()
        prompt, how = WAYS[number % 2]
        with source.model.stream(prompt, max_new_tokens=NUM_TOKENS, speculate="lookup", **how) as stream:
            read(stream, num_tokens)
        told = stream.result.token_ids
        assert told == undisturbed[number % 2][: len(told)]

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(partial(ask, number, chance.randint(0, 60))) for number in range(24)]
        for each in asked:
            each.result(60)
    wait_until(lambda: cluster.num_sessions() == 0)
    assert oracle.num_right > 10
