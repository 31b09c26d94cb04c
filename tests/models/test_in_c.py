"""Blocks whose matrices the products in C hold: all but attention in two calls, and the same text as by torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from shard_chain import Chain
from tiny_models import SIZES

from shardnet.loader import open_model
from shardnet.loader.weights import load_shard
from shardnet.models.plain_config import PlainConfig, values_of
from shardnet.models.shard import Shard
from shardnet.quantised.kernels.native import native
from shardnet.quantised.native.compiling import WhyNot

CHUNKS = (70, 1, 1, 9)
AS_NEAR = 1.5
"""To the same numbers in float32 as by torch in bfloat16, which has activations of 16 bits and rounds more often."""

if isinstance(native(), WhyNot):
    pytest.skip(native().reason, allow_module_level=True)


def save(family: str, folder: Path) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(3)
    config = CONFIG_MAPPING[family](**SIZES | {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16})
    whole = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in whole.parameters():  # biases and norms that are all 0 or 1 would hide mistakes
            parameter.add_(torch.randn_like(parameter) * 0.1)
    whole.save_pretrained(folder)


def shard_of(folder: Path, dtype: str, scheme: str) -> Shard:
    files = open_model(str(folder), dtype, weights=scheme)
    plain = PlainConfig(values_of(files.config))
    last = files.profile.num_units - 1
    return load_shard(plain, files.tensors_of(0, last), 0, last, dtype, scheme=scheme)


def logits_of(shard: Shard, ids: torch.Tensor, chunks: tuple[int, ...]) -> list[torch.Tensor]:
    chain = Chain([shard], capacity=96)
    return [chain.step({0: part}) for part in ids.split(chunks)]


@pytest.mark.parametrize("scheme", ["int4", "int8"])
@pytest.mark.parametrize(("family", "is_in_c"), [("llama", True), ("qwen2", True), ("gemma", True), ("qwen3", False)])
def test_blocks_in_c_give_what_torch_gives(family: str, is_in_c: bool, scheme: str, tmp_path: Path) -> None:
    save(family, tmp_path)
    shard = shard_of(tmp_path, "bfloat16", scheme)
    blocks = [each.run for each in shard._lean]
    assert all((block._in_c is not None) == is_in_c for block in blocks) and blocks
    ids = torch.randint(3, 97, (sum(CHUNKS),), generator=torch.Generator().manual_seed(1))
    wanted = logits_of(shard_of(tmp_path, "float32", scheme), ids, CHUNKS)
    found = logits_of(shard, ids, CHUNKS)
    for block in blocks:
        block._in_c = None
    by_torch = logits_of(shard, ids, CHUNKS)
    assert distance(found, wanted) < distance(by_torch, wanted) * AS_NEAR


def distance(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    return (torch.cat(found).float() - torch.cat(wanted)).norm().item()
