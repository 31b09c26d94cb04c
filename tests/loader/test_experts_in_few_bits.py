"""Experts in few bits: as a GGUF file has them, shared among shards, and whatever rows come together."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from shard_chain import Chain
from tiny_gguf_families import file_of, skeleton_of
from tiny_models import SIZES, VARIANTS, make_model

from shardnet.loader import load_shard, open_model
from shardnet.loader.gguf.as_it_is import kept_as_it_is
from shardnet.loader.gguf.naming import wanted_shapes
from shardnet.loader.pieces import match_names
from shardnet.models import build_skeleton
from shardnet.models.few_bits import held_bytes
from shardnet.quantised.experts import HeldExperts
from shardnet.quantised.kernels.plain import Plain
from shardnet.quantised.linear import held_in
from shardnet.quantised.schemes import joint_format


@pytest.mark.parametrize("variant", ["qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_experts_of_a_gguf_file(tmp_path: Path, variant: str, kind: str) -> None:
    """What they stand for is what the file says, but that scales are rounded, or whole rows to 8 bits."""
    skeleton = skeleton_of(variant)
    header, naming = file_of(tmp_path / "tiny.gguf", skeleton, kind)
    places = kept_as_it_is(header, naming, skeleton.config.to_dict(), wanted_shapes(skeleton))
    assert places is not None
    named = {name: place._replace(root=name) for name, place in match_names(skeleton, places).items()}
    last = skeleton.config.num_hidden_layers + 1
    shard = load_shard(skeleton.config, named, 0, last, "float32", scheme="auto")
    whole = load_shard(skeleton.config, named, 0, last, "float32")
    floats = {name: tensor for unit in whole.units for name, tensor in unit.weights.items()}
    num_experts = 0
    for path, module in shard.modules.items():
        for name, part in module.named_modules(prefix=path):
            if not isinstance(part, HeldExperts):
                continue
            for attribute in ("gate_up_proj", "down_proj"):
                layers = getattr(part, attribute)
                for expert, wanted in enumerate(floats[f"{name}.{attribute}"]):
                    found = layers[expert](torch.eye(wanted.shape[1])).t()
                    assert (found - wanted).abs().max() <= wanted.abs().max() * 2**-7
                    num_experts += 1
    assert num_experts == 2 * 4 * skeleton.config.num_hidden_layers


def test_parts_of_several_formats() -> None:
    assert joint_format(set()) == ""
    assert joint_format({"Q4_1"}) == "Q4_1"
    assert joint_format({"Q4_K", "Q6_K"}) == "Q6_K"
    assert joint_format({"Q4_K", "F32"}) == ""


def save(folder: Path, variant: str) -> None:
    """With rows that all kernels know."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    family, sizes = VARIANTS[variant]
    wider = {name: size for name, size in (("hidden_size", 64), ("intermediate_size", 96)) if name in SIZES}
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**sizes | wider | {"moe_intermediate_size": 32})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize("variant", ["mixtral", "granitemoe", "qwen3_moe"])
@pytest.mark.parametrize("scheme", ["int4", "w8a8"])
def test_rows_do_not_depend_on_each_other(tmp_path: Path, variant: str, scheme: str) -> None:
    save(tmp_path, variant)
    files = open_model(str(tmp_path), "bfloat16", weights=scheme)
    shard = load_shard(files.config, files.tensors, 1, 1, "bfloat16", scheme=scheme)
    [experts] = [part for part in next(iter(shard.modules.values())).modules() if isinstance(part, HeldExperts)]
    rows, chosen = torch.randn(40, 64).bfloat16(), torch.rand(40, 4).argsort(1)[:, :2]
    weights = torch.rand(40, 2).bfloat16()
    together = experts(rows, chosen, weights)
    for row in range(0, 40, 7):
        own = slice(row, row + 1)
        held = next(iter(held_in({"experts": experts})))[1]
        if held.kernel.name == "native":
            assert torch.equal(experts(rows[own], chosen[own], weights[own])[0], together[row])
    assert not isinstance(held.kernel, Plain)
    assert experts(rows[:0], chosen[:0], weights[:0]).shape == (0, 64)


def test_devices_share_experts_and_read_only_their_own(tmp_path: Path) -> None:
    make_model("mixtral").save_pretrained(tmp_path)
    files = open_model(str(tmp_path), "float32", weights="int8")
    weights: dict[Any, torch.Tensor] = {}
    reserved: list[int] = []
    load = partial(load_shard, files.config, files.tensors)
    whole = load(0, 4, "float32", weights, reserved.append, scheme="int8")
    again = load(2, 4, "float32", weights, reserved.append, scheme="int8")
    assert again.bytes_read == 0
    assert reserved == [whole.weight_bytes, 0]
    ids = torch.arange(5, 12)
    before = load(0, 1, "float32", scheme="int8")
    assert torch.equal(Chain([whole]).step({0: ids}), Chain([before, again]).step({0: ids}))


@pytest.mark.parametrize("variant", ["mixtral", "qwen2_moe"])
def test_planned_bytes_are_those_of_experts_in_few_bits(tmp_path: Path, variant: str) -> None:
    save(tmp_path, variant)
    sizes = {}
    for scheme in ("float32", "int8"):
        config = open_model(str(tmp_path), "float32").config
        skeleton = build_skeleton(config, 2, 2)
        [(_, modules)] = skeleton.units()
        sizes[scheme] = held_bytes(skeleton, modules, scheme, lambda _: "", 4)
    assert sizes["int8"] < 0.3 * sizes["float32"]
