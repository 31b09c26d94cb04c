"""Weights of few bits in every family: a shard gives what the stock model gives with the numbers they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from shard_chain import TOLERANCE, Chain
from tiny_models import MIXTURES, SIZES, VARIANTS, make_model
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from shardnet.errors import DamagedCheckpoint, UnsupportedModel
from shardnet.loader import open_model
from shardnet.loader.weights import load_shard
from shardnet.models.few_bits import hold_in_few_bits
from shardnet.models.kv import ON_CPU, Segment
from shardnet.models.skeleton import skeleton_to_run
from shardnet.quantised.rounding import rounded
from shardnet.stage.cache import KVCache

CHUNKS = (9, 1, 1)


def rounded_model(variant: str, scheme: str, config: Any) -> tuple[Any, int]:
    """The stock model with every matrix rounded that a shard holds in few bits; how many there are."""
    whole = make_model(variant)
    skeleton = skeleton_to_run(config, 0, config.num_hidden_layers + 1)
    packings = hold_in_few_bits(skeleton, scheme, lambda _: "F32", torch.float32, ON_CPU)
    parameters = dict(whole.named_parameters())
    seen: set[str] = set()
    for packing in [each for unit in packings.values() for each in unit]:
        for source in packing.sources:
            part = slice(source.first_element, source.first_element + source.shape.numel())
            weight = parameters[source.name].data.view(-1)[part].view(source.shape)
            values = weight.t() if source.is_transposed else weight
            values = rounded(values, packing.held.matrix.shape.form).floats()
            if source.label not in seen:
                weight.copy_(values.t() if source.is_transposed else values)
            seen.add(source.label)
    return whole, len(seen)


@pytest.mark.parametrize("scheme", ["int4", "int8"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_in_few_bits(variant: str, scheme: str, tmp_path: Path) -> None:
    make_model(variant).save_pretrained(tmp_path)
    files = open_model(str(tmp_path), "float32", weights=scheme)
    whole, num_held = rounded_model(variant, scheme, files.config)
    assert num_held >= (4 if variant == "bloom-odd" else 20 if variant in MIXTURES else 8)
    last = files.profile.num_units - 1
    shards = [
        load_shard(files.config, files.tensors, first, end, "float32", scheme=scheme)
        for first, end in ((0, 1), (2, last))
    ]
    ids = torch.randint(3, 97, (sum(CHUNKS),), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = whole(ids[None]).logits[0]
    chain, end = Chain(shards), 0
    for num_tokens in CHUNKS:
        logits = chain.step({0: ids[end : end + num_tokens]})
        end += num_tokens
        assert (logits[0] - wanted[end - 1]).abs().max() < TOLERANCE
    planned = sum(unit.weight_bytes for unit in files.profile.units)
    assert planned < sum(unit.num_parameters for unit in files.profile.units) * 4


@pytest.mark.parametrize("variant", ["llama", "llama-tied", "qwen2", "gemma3_text", "gpt2", *MIXTURES])
def test_activations_in_8_bits_stay_near(variant: str, tmp_path: Path) -> None:
    make_model(variant).save_pretrained(tmp_path)
    files = open_model(str(tmp_path), "float32", weights="w8a8")
    ids = torch.randint(3, 97, (12,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = make_model(variant)(ids[None]).logits[0, -1]
    shard = load_shard(files.config, files.tensors, 0, files.profile.num_units - 1, "float32", scheme="w8a8")
    logits = Chain([shard]).step({0: ids})[0]
    assert (logits - wanted).norm() / wanted.norm() < 0.1


@pytest.mark.parametrize("variant", ["llama", "phi", "gptj"])
def test_part_of_a_prompt_wants_no_logits(variant: str, tmp_path: Path) -> None:
    """Heads with a bias failed with no row at all: prompts of more than one chunk could not be answered."""
    make_model(variant).save_pretrained(tmp_path)
    files = open_model(str(tmp_path), "float32", weights="int8")
    shard = load_shard(files.config, files.tensors, 0, files.profile.num_units - 1, "float32", scheme="int8")
    kv = KVCache(shard.kv_layout, shard.kv_row_dtype).open(0, 8)
    logits = shard.forward(torch.arange(5, 12), [Segment(kv, 7, num_logits=0)])
    assert logits.shape == (0, files.config.vocab_size)


def test_a_tied_matrix_is_held_once(tmp_path: Path) -> None:
    make_model("llama-tied").save_pretrained(tmp_path)
    files = open_model(str(tmp_path), "bfloat16", weights="int4")
    weights: dict[Any, torch.Tensor] = {}
    reserved: list[int] = []
    last = files.profile.num_units - 1
    whole = load_shard(files.config, files.tensors, 0, last, "bfloat16", weights, reserved.append, scheme="int4")
    assert reserved == [whole.weight_bytes]
    again = load_shard(files.config, files.tensors, 2, last, "bfloat16", weights, reserved.append, scheme="int4")
    assert reserved[1:] == [0]
    assert again.bytes_read == 0
    ids = torch.arange(5, 12)
    before = load_shard(files.config, files.tensors, 0, 1, "bfloat16", scheme="int4")
    assert torch.equal(Chain([whole]).step({0: ids}), Chain([before, again]).step({0: ids}))


def test_schemes_do_not_share_weights(tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path)
    files = open_model(str(tmp_path), "float32")
    weights: dict[Any, torch.Tensor] = {}
    ids = torch.arange(5, 12)
    texts = [
        Chain([load_shard(files.config, files.tensors, 0, 4, "float32", weights, scheme=scheme)]).step({0: ids})
        for scheme in ("int4", "int8", "auto", "int4")
    ]
    assert torch.equal(texts[0], texts[3])
    assert len({tuple(text.flatten().tolist()) for text in texts}) == 3


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    whole = make_model("llama")
    with torch.no_grad():
        whole.model.layers[1].mlp.up_proj.weight[3, 5] = float("inf")
    whole.save_pretrained(tmp_path)
    for dtype in ("float32", "bfloat16"):
        files = open_model(str(tmp_path), dtype, weights="int4")
        load_shard(files.config, files.tensors, 0, 1, dtype, scheme="int4")
        with pytest.raises(DamagedCheckpoint, match=r"layers\.1\.mlp\.\w+\.weight has numbers that are not finite"):
            load_shard(files.config, files.tensors, 0, 2, dtype, scheme="int4")


def test_where_no_matrix_fits_few_bits_are_refused(tmp_path: Path) -> None:
    config = CONFIG_MAPPING["llama"](**SIZES | {"hidden_size": 24, "intermediate_size": 40})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="None of the matrices in the blocks of this llama model"):
        open_model(str(tmp_path), "float32", weights="int4")


@pytest.mark.parametrize("variant", ["llama-tied", "gemma3_text", "mixtral"])
@pytest.mark.parametrize(
    "by_unit", [("int8", "int4", "bfloat16", "int4", "bfloat16"), ("bfloat16",) * 2 + ("int4",) * 3]
)
def test_each_unit_may_be_in_a_scheme_of_its_own(variant: str, by_unit: tuple[str, ...], tmp_path: Path) -> None:
    make_model(variant).save_pretrained(tmp_path)
    files = open_model(str(tmp_path), "bfloat16")
    mixed = files.held_as(by_unit, 0.01)
    ids, last = torch.arange(5, 12), files.profile.num_units - 1
    whole = load_shard(files.config, files.tensors, 0, last, "bfloat16", by_unit=by_unit)
    units = [
        load_shard(files.config, files.tensors, unit, unit, "bfloat16", scheme=scheme)
        for unit, scheme in enumerate(by_unit)
    ]
    assert torch.equal(Chain([whole]).step({0: ids}), Chain(units).step({0: ids}))
    for unit, planned in zip(units, mixed.profile.units, strict=True):
        assert unit.weight_bytes <= planned.weight_bytes * 1.25 + 512, "tiles of 16 outputs are filled up"
    assert mixed.profile.unit_weights == by_unit and mixed.profile.predicted_loss == 0.01
    assert files.profile.unit_weights == ()
