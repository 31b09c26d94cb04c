"""Blocks of our own are those of `transformers`: same weights, same tables to the last bit, same texts in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from shard_chain import TOLERANCE, Chain
from tiny_models import SIZES, VARIANTS, save_model
from torch import Tensor, nn

from shardnet.loader import load_shard, open_model
from shardnet.models import build_skeleton, family_of
from shardnet.models.blocks import Block, RMSNorm, ShiftedNorm
from shardnet.models.plain_config import PlainConfig, values_of
from shardnet.models.recipes import RECIPES, recipe_of
from shardnet.models.skeleton import Skeleton, skeleton_to_run

OWN = [name for name, (family, _) in VARIANTS.items() if family in RECIPES]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.7},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": YARN,
    "yarn-scaled": YARN | {"mscale": 1.0, "mscale_all_dim": 0.7, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn-given": YARN | {"attention_factor": 1.3, "truncate": False},
}


def config_of(family: str, **said: Any) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[family](**(SIZES | said))


def with_rope(family: str, rope: dict[str, Any], **said: Any) -> Any:
    """A configuration with such rotary tables; of Gemma 3's two kinds of blocks, those that see everything."""
    rope = {"rope_theta": 10000.0} | rope
    if family == "gemma3_text":
        rope = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}
    return config_of(family, rope_parameters=rope, **said)


def plain(config: Any) -> PlainConfig:
    return PlainConfig(values_of(config))


def slots_of(skeleton: Skeleton) -> dict[str, tuple[int, ...]]:
    return {slot.name: tuple(slot.shape) for _, modules in skeleton.units() for slot in skeleton.slots(modules)}


@pytest.mark.parametrize("variant", OWN)
def test_the_units_are_those_of_the_stock_model(variant: str) -> None:
    family, sizes = VARIANTS[variant]
    config = config_of(family, **sizes)
    last = config.num_hidden_layers + 1
    own, stock = skeleton_to_run(plain(config), 0, last), build_skeleton(config, 0, last)
    assert all(isinstance(block, Block) for block in own.blocks.values()) and len(own.blocks) == 3
    assert slots_of(own) == slots_of(stock)
    assert (own.windows, own.tied, own.kv_layout) == (stock.windows, stock.tied, stock.kv_layout)
    assert [list(modules) for _, modules in own.units()] == [list(modules) for _, modules in stock.units()]
    parts = [skeleton_to_run(plain(config), first, last) for first, last in ((0, 1), (2, 3), (4, 4))]
    assert {name: shape for part in parts for name, shape in slots_of(part).items()} == slots_of(stock)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rope", [None, *ROPES])
@pytest.mark.parametrize("family", ["llama", "qwen3", "smollm3", "gemma2", "gemma3_text"])
def test_rotary_tables_are_equal_to_the_last_bit(family: str, rope: str | None, dtype: torch.dtype) -> None:
    said: dict[str, Any] = {"head_dim": 64}
    config = config_of(family, **said) if rope is None else with_rope(family, ROPES[rope], **said)
    own, stock = skeleton_to_run(plain(config), 1, 3).rotary, build_skeleton(config, 1, 3).rotary
    assert own is not None and stock is not None
    example, positions = torch.empty(0, dtype=dtype), torch.arange(128)[None]
    for kind in {family_of(family).turned(config, layer) for layer in range(3)}:
        of_kind = () if kind is None else (kind,)
        for ours, theirs in zip(own(example, positions, *of_kind), stock(example, positions, *of_kind), strict=True):
            assert torch.equal(ours, theirs), kind


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norms_and_embeddings_are_equal_to_the_last_bit(dtype: torch.dtype) -> None:
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm, Gemma2TextScaledWordEmbedding
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    generator = torch.Generator().manual_seed(3)
    rows, weight = (torch.randn(size, generator=generator).to(dtype) for size in ((5, 96), (96,)))
    for own, theirs in ((RMSNorm(96, 1e-6), LlamaRMSNorm(96)), (ShiftedNorm(96, 1e-6), Gemma2RMSNorm(96))):
        own.weight = theirs.weight = nn.Parameter(weight)
        assert torch.equal(own(rows), theirs(rows))
    config = config_of("gemma2", hidden_size=96, head_dim=16)
    [embedding] = skeleton_to_run(plain(config), 0, 0).embedding.values()
    stock = Gemma2TextScaledWordEmbedding(97, 96, 0, embed_scale=96**0.5)
    embedding.weight = stock.weight = nn.Parameter(torch.randn(97, 96, generator=generator).to(dtype))
    assert torch.equal(embedding(torch.arange(97)), stock(torch.arange(97)))


@pytest.mark.parametrize("variant", OWN)
def test_float32_gives_the_text_of_the_whole_model(variant: str, tmp_path: Path) -> None:
    """Prompt in chunks, then single tokens, well beyond the windows, two sessions of different lengths together."""
    whole = save_model(variant, tmp_path)
    assert_same_texts(whole, tmp_path)


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_float32_gives_it_with_each_kind_of_rotary_table(family: str, rope: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    config = with_rope(family, ROPES[rope], head_dim=16, sliding_window=6)
    whole = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    whole.save_pretrained(tmp_path)
    assert_same_texts(whole, tmp_path)


def assert_same_texts(whole: Any, folder: Path, num_tokens: int = 24) -> None:
    files = open_model(str(folder), "float32")
    last = files.profile.num_units - 1
    shards = [
        load_shard(plain(files.config), files.tensors_of(first, end), first, end, "float32")
        for first, end in ((0, 1), (2, last))
    ]
    assert all(shard._lean for shard in shards)
    ids = torch.randint(3, 97, (14,), generator=torch.Generator().manual_seed(2))
    prompts = {0: ids, 1: ids[3:8]}
    expected = {session: greedy(whole, prompt, num_tokens) for session, prompt in prompts.items()}
    chain = Chain(shards, capacity=64)
    chain.step({0: ids[:9]})
    logits = chain.step({0: ids[9:], 1: prompts[1]})
    answers: dict[int, list[int]] = {0: [], 1: []}
    for _ in range(num_tokens):
        with torch.inference_mode():
            for session, row in zip(answers, logits, strict=True):
                said = torch.cat((prompts[session], torch.tensor(answers[session], dtype=torch.long)))
                difference = (row - whole(said[None]).logits[0, -1]).abs().max().item()
                assert difference < TOLERANCE, (session, len(said), difference)
                answers[session].append(int(row.argmax()))
        logits = chain.step({session: torch.tensor(answer[-1:]) for session, answer in answers.items()})
    assert answers == expected


def greedy(whole: Any, prompt: Tensor, num_tokens: int) -> list[int]:
    said = prompt
    with torch.inference_mode():
        for _ in range(num_tokens):
            said = torch.cat((said, whole(said[None]).logits[0, -1:].argmax(-1)))
    return said[len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("llama", {"hidden_act": "relu"}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
        ("llama", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0,
                                       "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
                                       "original_max_position_embeddings": 32}}),
        ("phi3", {}),
        ("gpt_neox", {}),
    ],
)  # fmt: skip
def test_what_is_not_known_goes_through_the_stock_blocks(family: str, said: dict[str, Any]) -> None:
    config = config_of(family, **said)
    assert recipe_of(config) is None
    blocks = skeleton_to_run(plain(config), 1, 2).blocks.values()
    assert not any(isinstance(block, Block) for block in blocks) and len(blocks) == 2


def test_modules_that_were_replaced_are_called(tmp_path: Path) -> None:
    """An adapter on one projection of three, and one on a projection by itself."""

    class Doubled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, rows: Tensor) -> Tensor:
            return 2 * self.inner(rows)

    whole = save_model("qwen2", tmp_path)
    files = open_model(str(tmp_path), "float32")
    shard = load_shard(files.config, files.tensors, 0, 4, "float32")
    for blocks in (whole.model.layers, [shard.modules[f"model.layers.{layer}"] for layer in range(3)]):
        blocks[0].self_attn.k_proj = Doubled(blocks[0].self_attn.k_proj)
        blocks[1].mlp.down_proj = Doubled(blocks[1].mlp.down_proj)
    shard.relink()
    ids = torch.arange(5, 17)
    with torch.inference_mode():
        expected = whole(ids[None]).logits[0, -1]
    assert (Chain([shard]).step({0: ids})[0] - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("variant", ["llama", "qwen3", "gemma", "gemma2", "gemma3_text"])
def test_half_precision_stays_as_near_as_stock_blocks_do(
    variant: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean distances from the logits of float32, over a prompt and single tokens behind it."""
    whole = save_model(variant, tmp_path)
    files = open_model(str(tmp_path), "float32")
    ids = torch.randint(3, 97, (40,), generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        expected = whole(ids[None]).logits[0]

    def distance() -> float:
        shard = load_shard(files.config, files.tensors, 0, 4, dtype)
        chain = Chain([shard], capacity=64)
        found = [chain.step({0: ids[:20]}), *(chain.step({0: ids[end : end + 1]}) for end in range(20, 40))]
        return (torch.cat(found) - expected[19:]).abs().mean().item()

    own = distance()
    monkeypatch.setattr("shardnet.loader.weights.skeleton_to_run", build_skeleton)
    assert own < 1.3 * distance()
