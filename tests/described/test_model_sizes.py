"""Sizes from a configuration alone against the skeletons that transformers builds from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shardnet.described.model_sizes import ModelConfig, model_config_from_hf, model_profile, unit_works
from shardnet.errors import BadConfiguration, UnsupportedModel
from shardnet.launch.files.config_files import known_names, load_model_config
from shardnet.models.sizes import profile_model
from shardnet.models.weightless import weightless

TINY = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "phi3": {"pad_token_id": 0},
    "gemma2": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gpt_neox": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64, "n_inner": 48},
    "bloom": {"hidden_size": 32, "n_head": 4, "n_layer": 2},
}
PUBLISHED = {
    "llama_2_7b": 6_738_415_616,
    "llama_2_13b": 13_015_864_320,
    "llama_2_70b": 68_976_648_192,
    "bloom_1b7": 1_722_408_960,
    "bloom_7b1": 7_069_016_064,
    "mixtral_8x7b": 46_702_792_704,
    "smollm2_135m": 134_515_008,
    "gemma_3_1b": 999_885_952,
    "qwen3_0_6b": 596_049_920,
    "qwen3_8b": 8_190_735_360,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_equal_those_of_the_skeleton(family: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **{**TINY, **FAMILIES[family]})
    with weightless():
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    expected = sum(parameter.numel() for parameter in model.parameters())
    read = model_config_from_hf(config.to_dict(), family)
    assert sum(unit.num_parameters for unit in unit_works(read)) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_of_a_classifier_has_a_row_for_each_label(family: str) -> None:
    """Tied weights or not, in few bits or not, and as who has opened the checkpoint reckons it."""
    from transformers import AutoConfig

    labels = {"architectures": ["AnyForSequenceClassification"], "id2label": {0: "a", 1: "b", 2: "c"}}
    config = AutoConfig.for_model(family, **{**TINY, **FAMILIES[family], **labels})
    expected = profile_model(config, "float16", family).units
    for weights in ("auto", "int4"):
        found = unit_works(model_config_from_hf(config.to_dict(), family), "float16", weights=weights)
        assert [unit.num_parameters for unit in found] == [unit.num_parameters for unit in expected]
        assert found[-1].weight_bytes == expected[-1].weight_bytes and found[-1].output_bytes == 3 * 4
    usual = model_config_from_hf(config.to_dict() | {"id2label": None, "num_labels": None}, family)
    assert usual.labels == 2  # transformers leaves out what is usual


@pytest.mark.parametrize("name", PUBLISHED)
def test_shipped_models_have_their_published_size(name: str) -> None:
    units = unit_works(load_model_config(name))
    assert sum(unit.num_parameters for unit in units) == PUBLISHED[name]


def test_every_shipped_model_can_be_read() -> None:
    for name in known_names("models"):
        model = load_model_config(name)
        assert len(unit_works(model)) == model.blocks + 2


def test_kv_cache_weights_and_wire_of_llama_2_7b() -> None:
    units = unit_works(load_model_config("llama-2-7b"), "float32", context_tokens=1024)
    assert units[1].kv_bytes_per_token == 2 * 4096 * 4
    assert units[1].output_bytes == 4096 * 4
    assert units[1].weight_bytes / 1024**3 == pytest.approx(0.754, abs=0.001)  # as EdgeShard's authors published
    assert units[-1].output_bytes == 8
    profile = model_profile(load_model_config("llama-2-7b"), "float32")
    assert profile.num_units == 34 and profile.units[1].weight_bytes == units[1].weight_bytes


def test_four_bits_shrink_linear_layers_and_not_the_embedding() -> None:
    model = load_model_config("llama-2-7b")
    full, small = unit_works(model, "float16"), unit_works(model, "float16", bits=4)
    assert small[0].weight_bytes == full[0].weight_bytes
    assert small[1].weight_bytes / full[1].weight_bytes == pytest.approx(0.625 / 2, rel=0.01)


def test_a_sliding_window_bounds_the_cache_of_local_blocks() -> None:
    units = unit_works(load_model_config("gemma_3_1b"), context_tokens=8192)
    cache = [unit.kv_bytes_per_token * 8192 for unit in units[1:-1]]
    assert cache[0] == pytest.approx(512 * 2 * 256 * 2)
    assert cache[5] == pytest.approx(8192 * 2 * 256 * 2)


def test_experts_are_held_but_not_all_read() -> None:
    model = load_model_config("mixtral_8x7b")
    block = unit_works(model)[1]
    assert block.read_bytes < 0.4 * block.weight_bytes
    assert unit_works(model, step_tokens=8)[1].read_bytes == pytest.approx(block.weight_bytes, rel=0.01)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 0}, "heads must be a whole number, 1 or more"),
        ({"kv_heads": 3}, "multiple of kv_heads"),
        ({"blocks": 1_000_000}, "blocks must be a whole number, at most 4094"),
        ({"experts": 4}, "given together"),
        ({"attention_bias": "maybe"}, "none, qkv or all"),
    ],
)
def test_refuses_impossible_numbers(change: dict[str, int], said: str) -> None:
    good = {"hidden": 32, "blocks": 2, "heads": 4, "intermediate": 64, "vocab": 96, "context_tokens": 64}
    with pytest.raises(BadConfiguration, match=said):
        ModelConfig(name="m", family="llama", **{**good, **change})


def test_refuses_unknown_families_dtypes_and_bits(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="mamba"):
        model_config_from_hf({"model_type": "mamba"}, "m")
    with pytest.raises(BadConfiguration, match="says nothing of blocks"):
        model_config_from_hf({"model_type": "llama", "hidden_size": 4, "num_attention_heads": 1, "vocab_size": 9}, "m")
    model = load_model_config("smollm2_135m")
    with pytest.raises(BadConfiguration, match="float31"):
        unit_works(model, "float31")
    with pytest.raises(BadConfiguration, match="3 bits"):
        unit_works(model, bits=3)


def test_reads_a_local_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **TINY}))
    assert load_model_config(str(tmp_path)).blocks == 2


def test_facts_need_no_torch() -> None:
    program = "import sys, shardnet.models.facts; print(*{'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_positions_and_windows_of_families_that_have_their_own() -> None:
    def read(family: str, **more: int) -> ModelConfig:
        return model_config_from_hf({**TINY, "model_type": family, **more}, family)

    assert [read(family).learned_positions for family in ("opt", "gpt2", "llama")] == [66, 64, 0]
    seen = {family: read(family, sliding_window=8) for family in ("mistral", "gemma2", "gemma3_text", "qwen3")}
    assert [(each.sliding_window, each.global_every) for each in seen.values()] == [(8, 10_001), (8, 2), (8, 6), (0, 1)]
    assert read("gemma3_text", sliding_window=8, sliding_window_pattern=3).global_every == 3
