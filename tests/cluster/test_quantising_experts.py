"""Mixtures in 4 bits that a cluster makes: the same bytes over every split and after a cut, and they load."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import PROMPT, loaded, ring_in_process
from processes import wait_until
from tiny_models import VARIANTS, wider
from tiny_text_model import save_text_model

from shardnet.calibration import folder as folders
from shardnet.cluster import standby
from shardnet.cluster.quantises import calibration_text
from shardnet.errors import UnsupportedModel, UsageError
from shardnet.models import experts

pytestmark = pytest.mark.usefixtures("quick_watch")
FAMILIES = ("mixtral", "qwen3_moe", "granitemoe")
"""Experts in three tensors each, of two namings, and in two tensors for all of them."""
TEXT = calibration_text()[:700]
NUM_TOKENS = 16


@pytest.fixture(params=FAMILIES)
def mixture(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save_mixture(request.param, tmp_path / "model")


def save_mixture(variant: str, folder: Path) -> Path:
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    save_text_model(folder, ends=False)
    family, sizes = VARIANTS[variant]
    own = {
        "vocab_size": AutoConfig.from_pretrained(folder).vocab_size,
        "max_position_embeddings": 4096,
        "num_hidden_layers": 4,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
    }
    torch.manual_seed(1)
    config = CONFIG_MAPPING[family](**sizes | wider(variant) | own)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def quantised(model: Path, out: Path, split: list[int]) -> dict[str, bytes]:
    with ring_in_process(len(split)) as ring, ring.connect() as cluster:
        cluster.quantise(model, out, weights="int4", text=TEXT, split=split, progress=lambda *_: None)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_the_same_bytes_over_splits_and_after_a_cut(
    mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = quantised(mixture, tmp_path / "whole", [6])
    assert quantised(mixture, tmp_path / "split", [2, 3, 1]) == expected
    real: Callable[..., None] = folders.write_tensors

    def full(path: Path, tensors: Any) -> None:
        if path.name == "unit-00003.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_tensors", full)
        with pytest.raises(UsageError, match="No space left on device"):
            quantised(mixture, tmp_path / "cut", [6])
    assert quantised(mixture, tmp_path / "cut", [3, 3]) == expected


@pytest.mark.parametrize("kept", ["hot", "cold"])
def test_it_is_loaded_and_a_loss_changes_no_token(
    mixture: Path, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    out = tmp_path / "out"
    quantised(mixture, out, [3, 3])
    with loaded(out, [6], weights="int4") as (_, whole):
        [expected] = whole.generate([PROMPT], max_new_tokens=NUM_TOKENS)
        held = sum(report.weight_bytes for report in whole.report())
    with loaded(mixture, [6], weights="int4") as (_, whole):
        assert held == sum(report.weight_bytes for report in whole.report())
    with loaded(out, [2, 2, 2], weights="int4", standby=kept) as (ring, model):
        if kept != "cold":
            wait_until(lambda: sum(event.event == "standby" for event in model.events) >= 3)
        ids = model.stream(PROMPT, max_new_tokens=NUM_TOKENS).ids()
        found = [next(ids) for _ in range(5)]
        ring.network.kill("b")
        assert [*found, *ids] == expected.token_ids


def test_experts_of_another_form_are_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = save_mixture("mixtral", tmp_path / "model")
    monkeypatch.setattr(experts, "_AS_USUAL", {**experts._AS_USUAL, "has_bias": True})
    with pytest.raises(
        UnsupportedModel, match=r"experts of this mixtral model cannot get 4 bits: .*layers\.0\.mlp\.experts"
    ):
        quantised(mixture, tmp_path / "out", [6])
    assert not (tmp_path / "out").exists()
