"""Guessed tokens and weights of few bits with real processes: devices are killed in mid-answer, and the answers are
those of one device without guesses.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until
from tiny_text_model import save_text_model

import shardnet
from shardnet.cluster import standby

pytestmark = pytest.mark.usefixtures("warm_devices")
PROMPTS = ["one two three one two three one two", "another one and another one and", "a third one"]
NUM_TOKENS = 300
WAYS: list[dict[str, Any]] = [{}, {"temperature": 0.9, "top_k": 20, "repetition_penalty": 1.2, "seed": 7}, {}]
LOOKING_UP: dict[str, Any] = {"max_new_tokens": NUM_TOKENS, "speculate": "lookup"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("tiny"), ends=False)


@pytest.fixture(scope="module")
def expected(warm_devices: None, tiny: Path) -> list[list[int]]:
    with shardnet.Cluster.local(1, threads_per_device=1) as cluster:
        with cluster.load(tiny, dtype="float32", weights="int4") as model:
            asked = [
                model.generate([prompt], max_new_tokens=NUM_TOKENS, **how)
                for prompt, how in zip(PROMPTS, WAYS, strict=True)
            ]
    return [each.token_ids for [each] in asked]


@pytest.mark.parametrize(("victim", "kept"), [(0, "hot"), (1, "warm"), (2, "hot"), (2, "cold")])
def test_a_device_is_killed_in_the_midst_of_guesses(
    tiny: Path, expected: list[list[int]], victim: int, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "QUIET_S", 0.1)
    with shardnet.Cluster.local(3, threads_per_device=1) as cluster:
        pids = {answer["device"]: answer["pid"] for answer in cluster.describe()}
        model = cluster.load(tiny, dtype="float32", weights="int4", split=[2, 2, 2], standby=kept)
        if kept != "cold":
            wait_until(lambda: sum(event.event == "standby" for event in model.events) >= 3, 30)
        streams = [model.stream(prompt, **LOOKING_UP, **how) for prompt, how in zip(PROMPTS, WAYS, strict=True)]
        for _ in range(3):
            next(streams[0], "")
        os.kill(pids[f"device-{victim}"], signal.SIGKILL)
        for stream in streams:
            "".join(stream)
        assert [stream.result.token_ids for stream in streams] == expected
        wait_until(lambda: f"device-{victim}" not in model.plan.devices)
        again = [model.stream(prompt, **LOOKING_UP, **how) for prompt, how in zip(PROMPTS, WAYS, strict=True)]
        for stream in again:
            "".join(stream)
        assert [stream.result.token_ids for stream in again] == expected, "and with what devices have of these"
