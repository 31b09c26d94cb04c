"""Devices are lost in the midst of conversations: others take over, and no token is lost or changed.

Over a whole ring in this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from threading import Timer
from typing import Any

import pytest
from in_process_ring import PROMPT, SPLIT, RingInProcess, alone, answer, load, ring_in_process
from processes import wait_until

from shardnet.cluster.deployment import MOST_EVENTS, Deployment
from shardnet.errors import DeviceLost

pytestmark = pytest.mark.usefixtures("quick_watch")
NUM_TOKENS = 24
PROMPTS = [PROMPT, [40, 41], [7 + 3 * number for number in range(14)]]


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[list[int]]:
    return alone(tiny, PROMPTS, NUM_TOKENS)


@pytest.fixture
def ring() -> Iterator[RingInProcess]:
    with ring_in_process() as ring:
        for one in ring.names:
            for other in ring.names:
                ring.network.delay(one, other, 0.001)
        yield ring


@pytest.mark.parametrize("lost", ["a", "b", "c"])
@pytest.mark.parametrize("num_read", [0, 1, 10])
def test_a_lost_device_changes_no_token(
    ring: RingInProcess, tiny: Path, expected: list[list[int]], lost: str, num_read: int
) -> None:
    with ring.connect() as cluster, load(cluster, tiny) as model:
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        for _ in range(num_read):
            next(stream)
        ring.network.kill(lost)
        "".join(stream)
        assert stream.result.token_ids == expected[0]
        assert lost not in model.plan.devices
        assert [(event.event, event.device) for event in model.events] == [("lost", lost), ("recovered", "")]
        assert answer(model, PROMPTS[1], NUM_TOKENS) == expected[1]


SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.2, "seed": 3}


@pytest.mark.parametrize("seed", range(30))
def test_two_of_four_are_lost_at_random_moments(
    tiny: Path, expected: list[list[int]], sampled: list[int], seed: int
) -> None:
    random = Random(seed)
    with ring_in_process(4, speed=20.0) as ring, ring.connect() as cluster:
        ring.network.scatter(0.02, seed)
        model = cluster.load(tiny, dtype="float32", split=[1, 2, 2, 1], prefill_chunk_tokens=4)
        with model, ThreadPoolExecutor(4) as threads:
            answers = [threads.submit(answer, model, prompt, NUM_TOKENS) for prompt in PROMPTS]
            other = threads.submit(model.generate, [PROMPT], max_new_tokens=NUM_TOKENS, **SAMPLED)
            timers = []
            for lost in random.sample(ring.names, 2):
                timer = Timer(random.choice([0.0, random.uniform(0, 0.3)]), ring.network.kill, [lost])
                timer.start()
                timers.append(timer)
                if random.random() < 0.7:
                    timer.join()
            assert [each.result(timeout=30) for each in answers] == expected
            assert other.result(timeout=30)[0].token_ids == sampled
            for timer in timers:
                timer.join()


@pytest.fixture(scope="module")
def sampled(tiny: Path) -> list[int]:
    with ring_in_process() as ring, ring.connect() as cluster, load(cluster, tiny) as model:
        return model.generate([PROMPT], max_new_tokens=NUM_TOKENS, **SAMPLED)[0].token_ids


def test_what_the_others_cannot_hold_ends_the_model_with_a_sentence_and_not_the_cluster(
    ring: RingInProcess, tiny: Path
) -> None:
    with ring.connect() as cluster:
        model = load(cluster, tiny)
        rings = model._deployment._rings
        full = [replace(device, memory_bytes=2**10) for device in rings.blueprint.devices]
        rings.blueprint = replace(rings.blueprint, devices=tuple(full))
        stream = model.stream(PROMPT, max_new_tokens=3000)
        next(stream)
        ring.network.kill("b")
        with pytest.raises(DeviceLost, match=r"b is lost .* stage 2 of 3 .*, and the others cannot take over: .* GiB"):
            list(stream)
        with pytest.raises(DeviceLost, match="b is lost"):
            model.stream(PROMPT)
        model.close()
        with cluster.load(tiny, dtype="float32", split=[3, 3]) as again:
            assert answer(again) == alone(tiny, [PROMPT], 12)[0]


def test_where_nobody_is_to_take_over_a_frozen_device_is_waited_for_and_a_lost_one_ends_the_model(
    ring: RingInProcess, tiny: Path, expected: list[list[int]]
) -> None:
    with ring.connect() as cluster:
        model = cluster.load(tiny, dtype="float32", split=[2, 2, 2], standby="none")
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        ring.network.freeze("b")
        wait_until(lambda: "b" in cluster._watch.suspected)
        ring.network.restore("b")
        "".join(stream)
        assert stream.result.token_ids == expected[0]
        assert "b" in model.plan.devices
        suspected = model.events[0].text
        assert suspected.endswith("and nobody else takes its units over now: it is waited for")
        ring.network.kill("b")
        with pytest.raises(DeviceLost, match=r"b is lost .* the others cannot take over: standby is none"):
            answer(model, PROMPT, NUM_TOKENS)


@pytest.mark.parametrize("frozen", ["a", "b", "c"])
def test_others_take_over_from_a_frozen_device_and_it_is_used_again_when_it_thaws(
    ring: RingInProcess, tiny: Path, expected: list[list[int]], frozen: str
) -> None:
    with ring.connect() as cluster, load(cluster, tiny) as model, ThreadPoolExecutor(3) as threads:
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        ring.network.freeze(frozen)
        others = [threads.submit(answer, model, prompt, NUM_TOKENS) for prompt in PROMPTS[1:]]
        "".join(stream)
        assert [stream.result.token_ids, *(other.result() for other in others)] == expected
        assert frozen not in model.plan.devices
        ring.network.restore(frozen)
        wait_until(lambda: [event.event for event in model.events] == ["suspected", "recovered", "back"])
        wait_until(lambda: len(ring.workers[frozen]._stages.hosts()) == 0)
        for lost in sorted(set(ring.names) - {frozen}):
            ring.network.kill(lost)
        assert answer(model, PROMPT, NUM_TOKENS) == expected[0]
        assert model.plan.devices == (frozen,)


def test_who_falls_silent_while_others_load_is_replaced_when_all_have_loaded(
    ring: RingInProcess, tiny: Path, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, nobody saw to it before it was lost for good, 30 s later."""
    events: list[str] = []

    def late(model: Deployment, loads: Any) -> None:
        wait_until_loaded(model, loads)
        ring.network.freeze("b")
        assert model._rings is not None
        silent = model._rings.absences.silent
        wait_until(lambda: "b" in silent)

    wait_until_loaded = Deployment.wait_until_loaded
    monkeypatch.setattr(Deployment, "wait_until_loaded", late)
    with ring.connect() as cluster:
        told = partial(cluster.load, tiny, dtype="float32", split=SPLIT, prefill_chunk_tokens=4)
        with told(on_event=lambda event: events.append(event.event)) as model:
            assert answer(model, PROMPT, NUM_TOKENS) == expected[0]
            assert [(event.event, event.device) for event in model.events] == [("suspected", "b"), ("recovered", "")]
            wait_until(lambda: events == ["suspected", "recovered"])


def test_where_nobody_can_take_over_from_a_frozen_device_its_sessions_wait(
    tiny: Path, expected: list[list[int]]
) -> None:
    with ring_in_process(1) as ring, ring.connect() as cluster, cluster.load(tiny, dtype="float32") as model:
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        ring.network.freeze("a")
        wait_until(lambda: "a" in cluster._watch.suspected)
        ring.network.restore("a")
        "".join(stream)
        assert stream.result.token_ids == expected[0]
        wait_until(lambda: [event.event for event in model.events] == ["suspected", "back"])


def test_only_the_latest_events_are_remembered(ring: RingInProcess, tiny: Path) -> None:
    with ring.connect() as cluster:
        model = load(cluster, tiny)
        for number in range(MOST_EVENTS + 5):
            model._deployment.note("lost", str(number))  # type: ignore[attr-defined]
        assert [event.text for event in model.events] == [str(number) for number in range(5, MOST_EVENTS + 5)]
