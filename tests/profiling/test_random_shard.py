from __future__ import annotations

import pytest
import torch
from tiny_models import SIZES
from transformers import Gemma3TextConfig, LlamaConfig, Qwen2MoeConfig

from shardnet.models import Segment
from shardnet.profiling.random_shard import group_units, random_shard, works_of
from shardnet.quantised.linear import held_in
from shardnet.quantised.schemes import SCHEMES, bits_of
from shardnet.stage.cache import KVCache


def test_blocks_that_are_alike_are_one_group() -> None:
    groups = group_units(LlamaConfig(**{**SIZES, "num_hidden_layers": 6}), torch.float32)
    assert [group.units for group in groups] == [(0,), (1, 2, 3, 4, 5, 6), (7,)]
    assert (groups[1].run_starts_at, groups[1].longest_run) == (1, 6)
    assert groups[0].weight_bytes == 97 * 32 * 4


def test_each_kind_of_attention_is_a_group_with_a_long_run() -> None:
    kinds = ["sliding_attention", "full_attention"] * 3
    config = Gemma3TextConfig(**{**SIZES, "num_hidden_layers": 6, "head_dim": 8, "layer_types": kinds})
    groups = group_units(config, torch.float32)
    assert [group.units for group in groups] == [(0,), (1, 3, 5), (2, 4, 6), (7,)]
    assert [group.longest_run for group in groups] == [1, 6, 6, 1]
    assert config.layer_types == kinds
    assert set(groups[2].config.layer_types) == {"full_attention"}


def test_blocks_with_and_without_experts_are_two_groups() -> None:
    config = Qwen2MoeConfig(**{**SIZES, "num_hidden_layers": 5}, num_experts=4, moe_intermediate_size=16,
                            shared_expert_intermediate_size=16, mlp_only_layers=[0, 4])  # fmt: skip
    groups = group_units(config, torch.float32)
    assert [group.units for group in groups] == [(0,), (1, 5), (2, 3, 4), (6,)]
    assert (groups[2].run_starts_at, groups[2].longest_run) == (2, 3)
    assert groups[1].longest_run == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_random_shard_runs_and_is_always_the_same(dtype: torch.dtype) -> None:
    config = LlamaConfig(**SIZES, tie_word_embeddings=True)
    outputs = []
    for _ in range(2):
        shard = random_shard(config, 0, 4, dtype)
        cache = KVCache(shard.kv_layout, dtype).open(0, 8)
        outputs.append(shard.forward(torch.arange(5), [Segment(cache, 5)]))
        assert {module.weight.dtype for module in shard.modules.values() if hasattr(module, "weight")} == {dtype}
    assert outputs[0].shape == (1, 97)
    assert torch.isfinite(outputs[0]).all()
    assert torch.equal(*outputs)
    expected = sum(work.num_parameters for work in works_of(config, "tiny", "float32"))
    assert shard.weight_bytes == expected * dtype.itemsize


@pytest.mark.parametrize("weights", [scheme for scheme in SCHEMES if bits_of(scheme)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_computed_with_few_bits_are_numbers(weights: str, dtype: torch.dtype) -> None:
    """Scales had random bytes, where a kernel keeps them among its codes: all that came was no number, for which
    attention has a way of its own, and that way was measured."""
    config = LlamaConfig(**{**SIZES, "hidden_size": 64, "intermediate_size": 128, "vocab_size": 1100})
    shard = random_shard(config, 0, 4, dtype, weights=weights)
    assert list(held_in(shard.modules))
    cache = KVCache(shard.kv_layout, dtype).open(0, 40)
    assert torch.isfinite(shard.forward(torch.arange(40), [Segment(cache, 40)])).all()


def test_sizes_of_a_family_without_rules_come_from_its_skeleton() -> None:
    from transformers import FalconConfig

    works = works_of(
        FalconConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4), "f", "float32"
    )
    assert [work.name for work in works] == ["embedding", "block 0", "block 1", "head"]
    assert works[0].flops_per_token == 0 and works[0].read_bytes == 128
    assert works[1].read_bytes == works[1].weight_bytes > 0 and works[1].kv_bytes_per_token > 0
    assert works[3].weight_bytes >= 97 * 32 * 4


def test_a_head_of_few_bits_is_read_as_such_though_it_is_tied() -> None:
    """Once, rooflines of few bits took the head for one of 16 bits, as the embedding is on paper."""
    config = LlamaConfig(**SIZES, tie_word_embeddings=True)
    floats, few = works_of(config, "tiny", "bfloat16"), works_of(config, "tiny", "bfloat16", "int4")
    assert few[-1].read_bytes == few[-1].weight_bytes < 0.6 * floats[-1].read_bytes
    assert few[0].weight_bytes < 0.6 * floats[0].weight_bytes
    assert works_of(config, "tiny", "bfloat16", "auto") == floats
