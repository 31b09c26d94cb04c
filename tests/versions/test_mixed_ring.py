"""A ring of light devices with different versions of torch, each in an environment of its own. `make test-versions`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path

import pytest
import torch
from tiny_text_model import save_text_model
from torch_versions import PYTHONS
from transformers import AutoModelForCausalLM

import shardnet
from shardnet.cluster.local_workers import worker_environment
from shardnet.transport import serve_door

pytestmark = [pytest.mark.versions, pytest.mark.timeout(600)]
LIGHT = Path(__file__).parent.parent / "light_device.py"
PROMPT = list(range(20, 60))
NUM_TOKENS, NUM_LONG = 24, 300
LEAST_TOLD = 20
"""Tokens of a long answer, before a device is killed."""


@pytest.fixture(scope="module")
def pythons() -> dict[str, str]:
    named = os.environ.get(PYTHONS)
    if named is None:
        pytest.skip(f"{PYTHONS} names no environments: make test-versions")
    return dict(each.split("=", 1) for each in named.split(":"))


@pytest.fixture
def devices(pythons: dict[str, str]) -> Iterator[tuple[shardnet.Cluster, dict[str, subprocess.Popen[bytes]]]]:
    """One of each version, called after it."""
    with ExitStack() as ends:
        door = ends.enter_context(serve_door())
        started = {}
        for version, python in pythons.items():
            command = [python, str(LIGHT), "--endpoint", door.endpoint, "--name", f"torch-{version}"]
            process = subprocess.Popen(command, env=worker_environment(os.environ, 1))
            ends.callback(process.wait)
            ends.callback(process.kill)
            started[f"torch-{version}"] = process
        yield ends.enter_context(shardnet.Cluster.connect(door.endpoint, num_devices=len(started))), started


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("model"))


def by_transformers(folder: Path, num_tokens: int) -> list[int]:
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([PROMPT])
    mask = torch.ones_like(ids)
    said = whole.generate(ids, attention_mask=mask, max_new_tokens=num_tokens, do_sample=False, eos_token_id=None)
    tokens: list[int] = said[0, len(PROMPT) :].tolist()
    return tokens


def test_every_order_of_versions_gives_the_tokens_of_one_process(
    devices: tuple[shardnet.Cluster, dict[str, subprocess.Popen[bytes]]], model: Path
) -> None:
    cluster, _ = devices
    expected = by_transformers(model, NUM_TOKENS)
    splits = set(permutations([4, *[1] * (len(cluster.devices) - 1)][: len(cluster.devices)]))
    assert len(splits) == len(cluster.devices) > 1
    for split in sorted(splits):
        units = [*split[:-1], 6 - sum(split[:-1])]
        with cluster.load(model, dtype="float32", split=units) as loaded:
            assert loaded.generate([PROMPT], max_new_tokens=NUM_TOKENS, temperature=0)[0].token_ids == expected, units


def test_others_take_over_in_the_midst_of_an_answer(
    devices: tuple[shardnet.Cluster, dict[str, subprocess.Popen[bytes]]], model: Path
) -> None:
    cluster, started = devices
    expected = by_transformers(model, NUM_LONG)
    with cluster.load(model, dtype="float32") as loaded:
        stream = loaded.stream(PROMPT, max_new_tokens=NUM_LONG, temperature=0)
        for _ in range(LEAST_TOLD):
            next(stream)
        killed = loaded.plan.stages[1].device
        started[killed].kill()
        for _ in stream:
            pass
        assert stream.result.token_ids == expected
        assert [event.device for event in loaded.events if event.event == "lost"] == [killed]
        assert killed not in {stage.device for stage in loaded.plan.stages}
