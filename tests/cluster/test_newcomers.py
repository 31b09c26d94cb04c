"""Devices that join while a model is there, and leave again too early. Over a ring in this process."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Semaphore
from typing import Any

import pytest
from in_process_ring import PROMPT, alone, ring_in_process, rings_of
from processes import wait_until

from shardnet.cluster import newcomers
from shardnet.cluster.blueprint import Blueprint

pytestmark = pytest.mark.usefixtures("quick_watch")
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[int]:
    return alone(tiny, [PROMPT], NUM_TOKENS)[0]


def test_a_newcomer_that_is_lost_before_it_is_used_is_given_nothing(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, its loss was forgotten when it had been measured, and the model ended when it was to take over."""
    measure = newcomers.with_newcomer
    has_been_measured: list[str] = []

    with ring_in_process(3) as ring, ring.connect() as cluster:

        def late(blueprint: Blueprint, device: str, *rest: Any) -> Blueprint:
            measured = measure(blueprint, device, *rest)
            ring.network.kill(device)
            wait_until(lambda: device in cluster.lost and device in rings_of(model).absences.lost)
            has_been_measured.append(device)
            return measured

        monkeypatch.setattr(newcomers, "with_newcomer", late)
        model = cluster.load(tiny, dtype="float32", split=[2, 2, 2], prefill_chunk_tokens=4)
        ring.join("d")
        cluster.take_in("d")
        wait_until(lambda: has_been_measured == ["d"])
        assert "d" in rings_of(model).absences.lost
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        ring.network.kill("b")
        "".join(stream)
        assert stream.result.token_ids == expected


def test_another_one_comes_under_the_name_of_a_lost_device_before_others_have_taken_over(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it was taken to have dropped what the lost one had, and the model ended."""
    may_change, looks = Event(), Semaphore(0)
    with ring_in_process(3) as ring, ring.connect() as cluster:
        model = cluster.load(tiny, dtype="float32", split=[2, 2, 2], prefill_chunk_tokens=4)
        rings = rings_of(model)
        draw_id, check = rings._draw_id, model._deployment.check_stages

        def late() -> Any:
            may_change.wait(60)
            return draw_id()

        def checked(device: str, present: Any, asked_s: float) -> None:
            check(device, present, asked_s)
            if not present:
                looks.release()

        monkeypatch.setattr(rings, "_draw_id", late)
        monkeypatch.setattr(model._deployment, "check_stages", checked)
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        ring.network.kill("b")
        wait_until(lambda: rings.is_changing)
        cluster.let_go("b", "its process has ended")
        ring.join("b")
        cluster.take_in("b")
        assert looks.acquire(timeout=60) and looks.acquire(timeout=60)
        may_change.set()
        "".join(stream)
        assert stream.result.token_ids == expected
