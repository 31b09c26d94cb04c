"""Every split of every family gives what the whole transformers model gives; so does every mix of sessions."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from shard_chain import TOLERANCE, Chain
from tiny_models import SIZES, VARIANTS, TinyModel, tiny_model
from torch import nn

from shardnet.errors import UnsupportedModel
from shardnet.models import Segment, build_skeleton, family_of, scoring, supported_families
from shardnet.models.scoring import ScoredTokens
from shardnet.quantised.kv_names import AUTO, KV_DTYPES
from shardnet.stage.cache import KVCache
from shardnet.stage.row_memory import KeptTokens, RowMemory

CHUNKS = (7, 4, 1, 1, 1)
"""A prompt in two chunks, then three single tokens: longer than the sliding windows of the tiny models."""


@pytest.fixture(params=VARIANTS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return tiny_model(request.param, tmp_path_factory)


def splits(num_units: int, num_stages: int) -> list[list[tuple[int, int]]]:
    """Every way to cut the units into so many stages: (first, last) of each."""
    ways = []
    for cuts in combinations(range(1, num_units), num_stages - 1):
        edges = [0, *cuts, num_units]
        ways.append([(first, end - 1) for first, end in pairwise(edges)])
    return ways


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4])
def test_every_split_equals_the_whole_model(tiny: TinyModel, num_stages: int) -> None:
    for split in splits(tiny.num_units, num_stages):
        chain = Chain([tiny.shard(first, last) for first, last in split])
        end = 0
        for num_tokens in CHUNKS:
            logits = chain.step({0: tiny.ids[end : end + num_tokens]})
            end += num_tokens
            difference = (logits[0] - tiny.logits[end - 1]).abs().max().item()
            assert difference < TOLERANCE, (split, end, difference)


def test_rows_that_are_read_are_those_of_the_whole_model(tiny: TinyModel) -> None:
    """Of tokens from the fourth on, kept as they leave the last block."""
    shard = tiny.shard(0, tiny.num_units - 1)
    cache = KVCache(shard.kv_layout, shard.dtype)
    memory = RowMemory(3, torch.empty(11, shard.config.hidden_size))
    kv, end = cache.open(0, 14), 0
    for num_tokens in CHUNKS:
        segment = Segment(kv, num_tokens, 0, KeptTokens(memory, end))
        assert shard.forward(tiny.ids[end : end + num_tokens], [segment]).shape == (0, 97)
        cache.advance(0, num_tokens)
        end += num_tokens
    hidden = memory.read(3, 14)
    assert (shard.normed(hidden) - tiny.hidden[3:]).abs().max() < TOLERANCE
    assert (shard.logits_of(hidden) - tiny.logits[3:]).abs().max() < TOLERANCE


def test_sessions_of_one_row_do_not_disturb_each_other(tiny: TinyModel) -> None:
    last = tiny.num_units - 1
    texts = {0: tiny.ids[:13], 1: tiny.ids[2:9], 2: tiny.ids[5:14]}
    steps = [{0: 9, 1: 2}, {0: 1, 2: 5}, {0: 1, 1: 3, 2: 1}, {0: 1, 1: 1, 2: 1}, {1: 1, 2: 2, 0: 1}]
    together = Chain([tiny.shard(0, 1), tiny.shard(2, last)])
    alone = {session: Chain([tiny.shard(0, last)]) for session in texts}
    done = dict.fromkeys(texts, 0)
    for step in steps:
        tokens = {session: texts[session][done[session] : done[session] + count] for session, count in step.items()}
        logits = together.step(tokens)
        for row, (session, ids) in zip(logits, tokens.items(), strict=True):
            expected = alone[session].step({session: ids})[0]
            assert (row - expected).abs().max().item() < TOLERANCE, (step, session)
            done[session] += len(ids)


def test_windows_are_those_of_the_models_own_masks(tiny: TinyModel) -> None:
    """Once, attention believed the module: Phi-MoE and Qwen2-MoE, which are masked only, looked back without end."""
    assert tiny.shard(0, tiny.num_units - 1)._windows == tiny.windows


def test_sessions_decode_together_beyond_their_windows(tiny: TinyModel) -> None:
    """The lean way, too, with one session in its window, one at its edge and one beyond it, held to the whole model."""
    chain = Chain([tiny.shard(0, 2), tiny.shard(3, tiny.num_units - 1)])
    done = {0: 3, 1: 6, 2: 9}
    chain.step({session: tiny.ids[:count] for session, count in done.items()})
    for _ in range(5):
        logits = chain.step({session: tiny.ids[count : count + 1] for session, count in done.items()})
        difference = (logits - tiny.logits[list(done.values())]).abs().max().item()
        assert difference < TOLERANCE, (done, difference)
        done = {session: count + 1 for session, count in done.items()}


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_what_is_no_number_does_not_spoil_tokens_before_it(tiny: TinyModel, kv_dtype: str) -> None:
    """A wrong guess that overflows ended its session: what may not be seen was multiplied by 0, and was no number."""
    last = tiny.num_units - 1
    embedding, rest = tiny.shard(0, 0), tiny.shard(1, last, kv_dtype=kv_dtype)
    rows = embedding.forward(tiny.ids, [Segment(KVCache((), embedding.dtype).open(0, 14), 14)])
    cache = KVCache(rest.kv_layout, rest.kv_row_dtype)
    one, same, other = (cache.open(session, 16) for session in range(3))
    for session in (one, same):
        rest.forward(rows[:5], [Segment(session, 5)])

    def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
        part = 1e-4 if kv_dtype == AUTO else 0.05  # a code may become the next one
        assert (found - wanted).norm() < part * wanted.norm()

    for odd in (6, 1, 0):
        one.length = same.length = 5
        spoilt = rows[5:12].clone()
        spoilt[odd] = float("nan")
        found = rest.forward(torch.cat((rows[:2], spoilt)), [Segment(other, 2, 2), Segment(one, 7, 7)])
        assert_near(found[:2], rest.forward(rows[:2], [Segment(other, 2, 2)]))
        assert one.length == 5 and bool(found[2 + odd].isnan().all())
        if odd:
            assert_near(found[2 : 2 + odd], rest.forward(rows[5 : 5 + odd], [Segment(same, odd, odd)]))
        one.length = same.length = 5 + odd  # and both go on behind what is good
        found, wanted = (rest.forward(rows[5 + odd :][:2], [Segment(each, 2, 2)]) for each in (one, same))
        assert_near(found, wanted)


def test_a_chunk_in_mid_prompt_gives_no_logits(tmp_path_factory: pytest.TempPathFactory) -> None:
    tiny = tiny_model("llama", tmp_path_factory)
    shard = tiny.shard(0, tiny.num_units - 1)
    cache = KVCache(shard.kv_layout, shard.dtype)
    segments = [Segment(cache.open(0, 8), 5, num_logits=0), Segment(cache.open(1, 8), 4)]
    logits = shard.forward(torch.cat([tiny.ids[:5], tiny.ids[:4]]), segments)
    assert logits.shape == (1, 97)
    assert (logits[0] - tiny.logits[3]).abs().max() < TOLERANCE
    assert shard.forward(tiny.ids[:5], [Segment(cache.open(2, 8), 5, num_logits=0)]).shape == (0, 97)


def test_what_is_scored_has_a_few_rows_of_logits_at_a_time(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else shares the step."""
    tiny = tiny_model("gemma2", tmp_path_factory)
    shard = tiny.shard(0, tiny.num_units - 1)
    shapes: list[tuple[int, ...]] = []
    logits_of = shard._logits_of
    monkeypatch.setattr(shard, "_logits_of", lambda rows: (logits := logits_of(rows), shapes.append(logits.shape))[0])
    monkeypatch.setattr(scoring, "MOST_LOGITS", 3 * 97 + 96)
    cache = KVCache(shard.kv_layout, shard.dtype)
    scored = ScoredTokens(tiny.ids[1:9])
    segments = [Segment(cache.open(0, 8), 4), Segment(cache.open(1, 8), 8, False, scored)]
    logits = shard.forward(torch.cat([tiny.ids[:4], tiny.ids[:8]]), segments)
    assert (logits[0] - tiny.logits[3]).abs().max() < TOLERANCE and logits.shape == (1, 97)
    assert shapes == [(3, 97), (3, 97), (2, 97), (1, 97)]
    expected = tiny.logits[:8].log_softmax(-1)
    assert (scored.log_likelihoods - expected.gather(1, tiny.ids[1:9, None])[:, 0]).abs().max() < TOLERANCE
    assert scored.likeliest.tolist() == expected.argmax(-1).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype) -> None:
    tiny = tiny_model("llama", tmp_path_factory)
    shard = tiny.shard(0, tiny.num_units - 1, str(dtype).removeprefix("torch."))
    logits = Chain([shard]).step({0: tiny.ids[:9]})
    assert shard.dtype == dtype and logits.dtype == torch.float32
    assert (logits[0] - tiny.logits[8]).abs().max() < 0.1 * tiny.logits[8].abs().max()


def test_an_embedding_and_a_head_need_no_kv(tmp_path_factory: pytest.TempPathFactory) -> None:
    tiny = tiny_model("gpt2", tmp_path_factory)
    last = tiny.num_units - 1
    embedding, middle, head = tiny.shard(0, 0), tiny.shard(1, last - 1), tiny.shard(last, last)
    assert (embedding.kv_bytes_per_token, head.kv_bytes_per_token) == (0, 0)
    assert (embedding.has_embedding, embedding.has_head, head.has_head) == (True, False, True)
    assert [block.layer for block in middle.kv_layout] == [0, 1, 2] and middle.num_units == 3
    assert middle.kv_bytes_per_token == 3 * 2 * 32 * 4


def test_a_skeleton_holds_no_weights() -> None:
    from transformers import LlamaConfig

    skeleton = build_skeleton(LlamaConfig(num_hidden_layers=80, hidden_size=8192, intermediate_size=28672), 3, 4)
    slots = [slot for _, modules in skeleton.units() for slot in skeleton.slots(modules)]
    assert all(getattr(slot.module, slot.attribute).is_meta for slot in slots)
    assert {slot.name.rpartition(".layers.")[2].split(".")[0] for slot in slots} == {"2", "3"}
    assert skeleton.rotary is not None and not skeleton.rotary.inv_freq.is_meta


def test_an_unsupported_family_is_named_with_the_supported_ones() -> None:
    with pytest.raises(UnsupportedModel, match=r"'mamba'.*bloom, .*llama, .*qwen3_moe"):
        family_of("mamba")
    assert {VARIANTS[name][0] for name in VARIANTS} == set(supported_families())


@pytest.mark.parametrize(
    ("family", "said", "words"),
    [
        ("mistral", {"sliding_window": 0}, "sliding_window is 0"),
        ("gemma2", {"sliding_window": None}, "sliding_window is None"),
        ("qwen2", {"sliding_window": 6, "layer_types": ["chunked_attention"] * 3}, "'chunked_attention'"),
        ("llama", {"is_causal": False}, "both directions"),
        ("llama", {"per_layer_config": {1: {"intermediate_size": 24}}}, "per_layer_config"),
    ],
)
def test_attention_that_is_not_known_is_refused(family: str, said: dict[str, Any], words: str) -> None:
    """Once, `is_causal: false`, which transformers' masks follow in every family, was answered as if it were true."""
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[family](**(SIZES | said))
    with pytest.raises(UnsupportedModel, match=words):
        build_skeleton(config, 0, config.num_hidden_layers + 1)


def test_modules_are_made_without_weights_beside_others_with() -> None:
    """Two threads that enter and leave crosswise leave nothing behind, and a third is not disturbed."""
    from transformers import LlamaConfig

    config = LlamaConfig(num_hidden_layers=2, hidden_size=64, intermediate_size=64, num_attention_heads=4)
    done = threading.Event()
    seen: set[str] = set()

    def watch() -> None:
        while not done.is_set():
            seen.add(nn.Linear(2, 2).weight.device.type)

    with ThreadPoolExecutor(5) as pool:
        pool.submit(watch)
        try:
            skeletons = list(pool.map(lambda _: build_skeleton(config, 0, 3), range(8)))
        finally:
            done.set()
    assert seen == {"cpu"} == {nn.Linear(2, 2).weight.device.type}
    for skeleton in skeletons:
        for module in (*skeleton.embedding.values(), *skeleton.blocks.values(), *skeleton.head.values()):
            assert all(parameter.is_meta for parameter in module.parameters())
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_buffers_are_real(variant: str) -> None:
    from transformers import CONFIG_MAPPING

    family, sizes = VARIANTS[variant]
    config = CONFIG_MAPPING[family](**sizes)
    skeleton = build_skeleton(config, 0, config.num_hidden_layers + 1)
    modules = [*skeleton.embedding.values(), *skeleton.blocks.values(), *skeleton.head.values(), skeleton.rotary]
    for module in filter(None, modules):
        assert all(parameter.is_meta for parameter in module.parameters())
        assert not any(buffer.is_meta for buffer in module.buffers())
