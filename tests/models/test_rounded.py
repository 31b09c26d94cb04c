"""Keys and values in 8 bits, in every family: every split alike, near the whole model, and as if they were floats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shard_chain import Chain
from tiny_models import SIZES, VARIANTS, TinyModel, tiny_model
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from shardnet.loader import open_model
from shardnet.loader.weights import load_shard
from shardnet.models import Segment, rounded
from shardnet.models.attention import RaggedKV, attend
from shardnet.models.kv import BlockKV, stored_as
from shardnet.models.plain_config import PlainConfig, values_of
from shardnet.models.rounded import HeadSizes
from shardnet.quantised.kv_names import AUTO, INT8, KV_DTYPES
from shardnet.quantised.kv_rows import decode, encode
from shardnet.stage.cache import KVCache

CHUNKS = (7, 4, 1, 1, 1)
NEAR = {"phimoe": 0.2, "hunyuan_v1_moe": 0.2}
"""Whose tokens go to other experts where two of them are nearly even."""


@pytest.fixture(params=VARIANTS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return tiny_model(request.param, tmp_path_factory)


def chain_of(tiny: TinyModel, *cuts: int, kv_dtype: str = INT8) -> Chain:
    firsts, lasts = [0, *cuts], [*(cut - 1 for cut in cuts), tiny.num_units - 1]
    pairs = zip(firsts, lasts, strict=True)
    return Chain([tiny.shard(first, last, kv_dtype=kv_dtype) for first, last in pairs])


def test_every_split_is_alike_and_near_the_whole_model(tiny: TinyModel) -> None:
    chains = [chain_of(tiny), chain_of(tiny, 2), chain_of(tiny, 1, 2, 3)]
    end = 0
    for num_tokens in CHUNKS:
        whole, *others = (chain.step({0: tiny.ids[end : end + num_tokens]})[0] for chain in chains)
        end += num_tokens
        assert all(torch.equal(other, whole) for other in others), end
        wanted = tiny.logits[end - 1]
        assert (whole - wanted).norm() < NEAR.get(tiny.files.config.model_type, 0.03) * wanted.norm(), end


def test_it_makes_no_difference_which_tokens_share_a_step(tiny: TinyModel) -> None:
    """But for what float32 rounds otherwise, which may take a code to the next one."""
    chain, alone = chain_of(tiny, 2), chain_of(tiny)
    done = {0: 3, 1: 6, 2: 9}
    chain.step({session: tiny.ids[:count] for session, count in done.items()})
    for session, count in done.items():
        for place in range(count):
            alone.step({session: tiny.ids[place : place + 1]})
    for num_tokens in (1, 1, 3, 1):
        tokens = {session: tiny.ids[count : count + num_tokens] for session, count in done.items()}
        tokens = {session: ids for session, ids in tokens.items() if len(ids) == num_tokens}
        together = chain.step(tokens)
        for row, (session, ids) in zip(together, tokens.items(), strict=True):
            by_itself = alone.step({session: ids})[0]
            assert (row - by_itself).norm() < 0.01 * by_itself.norm()
            done[session] += len(ids)


def test_it_takes_half_of_16_bits(tmp_path_factory: pytest.TempPathFactory) -> None:
    tiny = tiny_model("llama", tmp_path_factory)
    as_floats, as_codes = (tiny.shard(0, 4, "bfloat16", kv_dtype) for kv_dtype in (AUTO, INT8))
    assert as_codes.kv_bytes_per_token == 3 * 2 * 2 * (8 + 4)
    assert as_floats.kv_bytes_per_token == 3 * 2 * 2 * 8 * 2
    assert [block.layer for block in as_codes.kv_layout_of(0, 2)] == [0, 1]


@pytest.mark.parametrize("scheme", ["int4", "int8", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma", "mistral", "qwen3"])
def test_weights_of_few_bits_are_no_reason_to_read_them_otherwise(family: str, scheme: str, tmp_path: Path) -> None:
    """Whoever runs these blocks, in C or by torch, must know that keys and values are rounded."""
    torch.manual_seed(3)
    sizes = SIZES | {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}  # that C holds
    config = CONFIG_MAPPING[family](**sizes)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    files = open_model(str(tmp_path), "bfloat16", weights=scheme)
    plain_config, last = PlainConfig(values_of(files.config)), files.profile.num_units - 1
    tensors, ids = files.tensors_of(0, last), torch.arange(5, 19)
    chains = [
        Chain([load_shard(plain_config, tensors, 0, last, "bfloat16", scheme=scheme, kv_dtype=kv_dtype)])
        for kv_dtype in KV_DTYPES
    ]
    end = 0
    for num_tokens in CHUNKS:
        plain, as_codes = (chain.step({0: ids[end : end + num_tokens]})[0] for chain in chains)
        end += num_tokens
        assert (as_codes - plain).norm() < 0.06 * plain.norm(), end
    plain_kv, kv = (chain.caches[0].get(0) for chain in chains)
    for layer in range(3):
        for wanted, rows in zip(plain_kv.read(layer, end), kv.read(layer, end), strict=True):
            found = decode(rows, wanted.shape[-1], torch.float32)
            assert rows.dtype == torch.int8 and (found - wanted).norm() < 0.06 * wanted.norm()


LENGTHS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=4)


@given(
    LENGTHS,
    st.sampled_from([(1, 1, 4, 4), (2, 3, 6, 4), (3, 1, 5, 7)]),
    st.sampled_from([None, 1, 3, 6]),
    st.sampled_from([None, 1.5]),
    st.sampled_from([None, 0.3]),
    st.integers(1, 6),
    st.integers(0, 10**6),
)
def test_attention_is_that_to_the_floats_they_stand_for(
    lengths: list[tuple[int, int]],
    shape: tuple[int, int, int, int],
    window: int | None,
    softcap: float | None,
    scaling: float | None,
    tile: int,
    seed: int,
) -> None:
    num_kv_heads, group, key_dim, value_dim = shape
    block = BlockKV(0, num_kv_heads, key_dim, value_dim)
    draw = torch.Generator().manual_seed(seed)
    num_new = sum(new for _, new in lengths)
    query = torch.randn(1, num_kv_heads * group, num_new, key_dim, generator=draw)
    cached = [
        tuple(torch.randn(num_kv_heads, length, dim, generator=draw) for dim in (key_dim, value_dim))
        for length, _ in lengths
    ]
    new = [torch.randn(1, num_kv_heads, num_new, dim, generator=draw) for dim in (key_dim, value_dim)]
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounded, "TILE", tile)
        for kv_dtype in (INT8, AUTO):
            is_rounded = kv_dtype == INT8
            keep = encode if is_rounded else lambda heads: decode(encode(heads), heads.shape[-1], torch.float32)
            dtype = torch.int8 if is_rounded else torch.float32
            cache = KVCache([stored_as(kv_dtype, block)], dtype)
            segments = []
            for number, ((length, num_tokens), (keys, values)) in enumerate(zip(lengths, cached, strict=True)):
                session = cache.open(number, num_tokens)
                if length:
                    cache.close(number)
                    kept = {0: (keep(keys), keep(values))}
                    session = cache.restore(number, length, kept, length + num_tokens)
                segments.append(Segment(session, num_tokens))
            kv = RaggedKV(segments, {0: window}, HeadSizes(key_dim, value_dim) if is_rounded else None)
            kv.update(*(new if is_rounded else (keep(each) for each in new)), 0)
            found.append(attend(torch.nn.Module(), query, kv, kv, None, scaling, softcap)[0])
    assert found[0].shape == (1, num_new, num_kv_heads * group, value_dim)
    assert (found[0] - found[1]).abs().max() < 1e-5
