"""A device without transformers, and without all that it needs, beside an ordinary one: real processes, real texts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_model
from tiny_text_model import save_text_model
from transformers import AutoModelForCausalLM
from warm_python import WARM_PYTHON

import shardnet
from shardnet.cluster.local_workers import worker_environment
from shardnet.errors import UnsupportedModel
from shardnet.transport import serve_door

LIGHT = Path(__file__).parent.parent / "light_device.py"
PROMPTS = [[5, 9, 40, 7, 200, 13], [77, 3, 150], list(range(20, 90))]
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 3},
]


@pytest.fixture(scope="module")
def cluster(warm_python: None) -> Iterator[shardnet.Cluster]:
    """The light device has units in the middle and behind; the ordinary one is there for the others."""
    with closing(serve_door("127.0.0.1")) as door:
        given = ["--endpoint", door.endpoint, "--name"]
        programs = [
            [sys.executable, str(LIGHT), *given, "light"],
            [*WARM_PYTHON, "-m", "shardnet.device.process", *given, "ordinary"],
        ]
        environment = worker_environment(os.environ, 1)
        workers = [subprocess.Popen(program, env=environment) for program in programs]
        try:
            with shardnet.Cluster.connect(door.endpoint, num_devices=2) as cluster:
                yield cluster
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


def by_transformers(folder: Path, options: dict[str, Any]) -> list[list[int]]:
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    said = {name: value for name, value in options.items() if name not in ("seed", "temperature")}
    if options["temperature"]:
        said |= {"do_sample": True, "temperature": options["temperature"]}
    answers = []
    for prompt in PROMPTS:
        torch.manual_seed(options.get("seed", 0))
        ids = torch.tensor([prompt])
        answer = whole.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, pad_token_id=0, eos_token_id=None, **said
        )
        answers.append(answer[0, len(prompt) :].tolist())
    return answers


def test_a_light_device_gives_the_tokens_of_transformers(cluster: shardnet.Cluster, tmp_path: Path) -> None:
    """It has a part of the ring, and then all of it: embedding, head, sampling."""
    folder = save_text_model(tmp_path / "model")
    expected = [by_transformers(folder, options) for options in OPTIONS]
    for split in ({"light": 6, "ordinary": 0}, {"light": 2, "ordinary": 4}, {"light": 3, "ordinary": 3}):
        units = [split[device] for device in cluster.devices]
        with cluster.load(folder, dtype="float32", split=units, progress=lambda *_: None) as model:
            for options, texts in zip(OPTIONS, expected, strict=True):
                answers = [model.generate([prompt], max_new_tokens=24, **options)[0] for prompt in PROMPTS]
                assert [answer.token_ids for answer in answers] == texts, (split, options)


def test_a_light_device_is_measured(cluster: shardnet.Cluster, tmp_path: Path) -> None:
    folder = save_text_model(tmp_path / "model", intermediate=160)
    with cluster.load(folder, dtype="bfloat16", cache_dir=tmp_path, progress=lambda *_: None) as model:
        assert len(model.generate([PROMPTS[0]], max_new_tokens=4)[0].token_ids) == 4


@pytest.mark.parametrize(("dtype", "weights"), [("float32", "float32"), ("bfloat16", "int4")])
def test_a_light_device_keeps_keys_and_values_in_8_bits(
    cluster: shardnet.Cluster, tmp_path: Path, dtype: str, weights: str
) -> None:
    folder, answers = save_text_model(tmp_path / "model"), []
    for split in ({"light": 6, "ordinary": 0}, {"light": 2, "ordinary": 4}, {"light": 0, "ordinary": 6}):
        units = [split[device] for device in cluster.devices]
        held: dict[str, Any] = {"dtype": dtype, "weights": weights, "kv_dtype": "int8"}
        with cluster.load(folder, **held, split=units, progress=lambda *_: None) as model:
            answers.append([model.generate([prompt], max_new_tokens=24)[0].token_ids for prompt in PROMPTS])
    assert answers[0] == answers[1] == answers[2]


def test_a_family_that_it_cannot_run_is_one_sentence(cluster: shardnet.Cluster, tmp_path: Path) -> None:
    save_model("gpt_neox", tmp_path)
    units = [{"light": 2, "ordinary": 3}[device] for device in cluster.devices]
    with pytest.raises(UnsupportedModel, match=r"gpt_neox model needs transformers .* not installed .*Run: pip"):
        cluster.load(tmp_path, dtype="float32", split=units)
