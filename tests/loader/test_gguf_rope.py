"""What a GGUF file says of rotary positions reaches the configuration, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tiny_gguf import write_gguf

from shardnet.errors import UnsupportedModel
from shardnet.loader import open_model
from shardnet.loader.gguf.rope import FACTORS

THETA, HEAD_DIM = 10000.0, 16


def llama3_factors(factor: float) -> np.ndarray:
    """As llama.cpp's converter writes them: by what transformers divides each frequency."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, rope_theta=THETA, rope_scaling=scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / THETA ** (torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    return (plain / scaled).numpy().astype(np.float32)


def opened(tmp_path: Path, more: Any) -> Any:
    path = write_gguf(tmp_path / "tiny.gguf", more=more)
    return open_model(str(path), "float32", cache_dir=tmp_path / "cache").config.rope_parameters


def test_the_factors_of_llama_3_are_kept(tmp_path: Path) -> None:
    """transformers passes over `rope_freqs.weight`: any Llama 3.1 to 3.3 from GGUF had unscaled positions, silently."""
    factors = llama3_factors(32.0)
    assert factors.min() == 1 and factors.max() > 4, "the tiny model has frequencies of both kinds"
    rope = opened(tmp_path, lambda writer: writer.add_tensor("rope_freqs.weight", factors))
    assert rope["rope_type"] == "llama3" and rope["rope_theta"] == THETA
    assert rope["factor"] == pytest.approx(factors.max()) and rope["original_max_position_embeddings"] == 8192


def test_factors_of_one_and_rules_without_effect_are_none(tmp_path: Path) -> None:
    def more(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", np.ones(HEAD_DIM // 2, np.float32))
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)

    assert opened(tmp_path, more)["rope_type"] == "default"


def test_linear_scaling_is_kept(tmp_path: Path) -> None:
    def more(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    rope = opened(tmp_path, more)
    assert rope["rope_type"] == "linear" and rope["factor"] == 4.0


@pytest.mark.parametrize(
    "spelling", [{"llama.rope.scaling.factor": 4.0}, {"llama.rope.scale_linear": 4.0}], ids=["no rule", "before rules"]
)
def test_linear_scaling_is_kept_where_no_rule_is_named(tmp_path: Path, spelling: dict[str, float]) -> None:
    """Both were passed over: such a model had unscaled positions, silently."""
    [(key, factor)] = spelling.items()
    rope = opened(tmp_path, lambda writer: writer.add_float32(key, factor))
    assert rope["rope_type"] == "linear" and rope["factor"] == factor


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_a_factor_without_effect_is_none(tmp_path: Path, factor: float) -> None:
    """llama.cpp takes 0 for no factor at all."""
    assert opened(tmp_path, lambda writer: writer.add_rope_scaling_factor(factor))["rope_type"] == "default"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), "by the rule 'yarn'"),
        (lambda w: w.add_tensor("rope_factors_long.weight", np.ones(8, np.float32)), "rope_factors_long"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.arange(1, 9, dtype=np.float32)), "not those of Llama 3"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.ones((2, 8), np.float32)), "no list of float32"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.ones(5000, np.float32)), "no list of float32"),
        *(
            (lambda w, each=each: w.add_tensor(FACTORS, np.full(8, each, np.float32)), "not those of Llama 3")
            for each in (0.0, -1.0, -0.0, np.inf, -np.inf, np.nan, 1e-45)
        ),
    ],
)
def test_what_no_configuration_says_is_refused(tmp_path: Path, more: Any, words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        opened(tmp_path, more)
