"""Blocks whose matrices the products in C hold: run there as a whole, and as near to float32 as by torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from shard_chain import Chain
from tiny_models import SIZES

from shardnet.errors import KVMemorySpent
from shardnet.loader import open_model
from shardnet.loader.weights import load_shard
from shardnet.models import lean
from shardnet.models.in_c import BlocksInC, why_not
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
    sizes = SIZES | {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16} | FAMILIES[family]
    config = CONFIG_MAPPING[family](**sizes)
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


FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 40},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"sliding_window": 40, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 5.0},
    "gemma3_text": {"sliding_window": 40, "query_pre_attn_scalar": 24},
    "smollm3": {"no_rope_layer_interval": 2, "pad_token_id": 0},
}


def by_torch(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "block_in_c", lambda *_: None)
    shard.relink()


def distance(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    return (torch.cat(found).float() - torch.cat(wanted)).norm().item()


@pytest.mark.parametrize("scheme", ["int4", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_in_c_give_what_torch_gives(
    family: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(family, tmp_path)
    shard = shard_of(tmp_path, "bfloat16", scheme)
    assert [type(run) for run in shard._lean] == [BlocksInC]
    ids = torch.randint(3, 97, (sum(CHUNKS),), generator=torch.Generator().manual_seed(1))
    wanted = logits_of(shard_of(tmp_path, "float32", scheme), ids, CHUNKS)
    found = logits_of(shard, ids, CHUNKS)
    by_torch(shard, monkeypatch)
    assert distance(found, wanted) < distance(logits_of(shard, ids, CHUNKS), wanted) * AS_NEAR


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_is_the_same_however_many_come_with_it(family: str, tmp_path: Path) -> None:
    """In chunks of any size, alone or beside other sessions, bit for bit."""
    save(family, tmp_path)
    shard = shard_of(tmp_path, "bfloat16", "int4")
    ids = torch.randint(3, 97, (3, sum(CHUNKS)), generator=torch.Generator().manual_seed(2))
    chain = Chain([shard], capacity=96)
    whole = [chain.step({session: own})[-1] for session, own in enumerate(ids)]
    by_ones = Chain([shard], capacity=96)
    for position in range(sum(CHUNKS)):
        last = by_ones.step({session: own[position : position + 1] for session, own in enumerate(ids)})
    assert torch.stack(whole).equal(last)
    other = Chain([shard], capacity=96)
    for first, num in [(0, 64), (64, 3), (67, 14)]:
        last = other.step({session: own[first : first + num] for session, own in enumerate(ids)})
    assert torch.stack(whole).equal(last)


def test_heads_without_two_halves_are_left_to_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no position turns them they may be odd; C refused them by an assertion."""
    odd: dict[str, object] = {"no_rope_layers": [0] * SIZES["num_hidden_layers"], "head_dim": 3}
    odd["num_attention_heads"] = odd["num_key_value_heads"] = 32
    monkeypatch.setitem(FAMILIES, "smollm3", FAMILIES["smollm3"] | odd)
    save("smollm3", tmp_path)
    near, wanted = (shard_of(tmp_path, *each) for each in (("bfloat16", "int8"), ("float32", "float32")))
    assert not any(isinstance(way, BlocksInC) for way in near._lean)
    assert {why_not(block) for block, _ in near._blocks} == {"their heads have no two halves"}
    ids = torch.arange(3, 3 + sum(CHUNKS))
    found, exact = (logits_of(shard, ids, CHUNKS) for shard in (near, wanted))
    assert distance(found, exact) < 0.1 * torch.cat(exact).norm()


def test_a_session_without_room_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    save("llama", tmp_path)
    shard = shard_of(tmp_path, "bfloat16", "int4")
    chain = Chain([shard], capacity=8)
    with pytest.raises(KVMemorySpent, match="has room for 8 tokens and this step would make it 9"):
        chain.step({0: torch.arange(3, 12)})
