"""`generate` is transformers' own, over a model in a ring: each answer is that of the same model alone, whatever is
lost meanwhile, and only what is new is computed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import RingInProcess, loaded
from lasting_in_process import LastingInProcess, lasting_in_process
from processes import wait_until
from tiny_models import VARIANTS, reference_attention, save_model
from tiny_text_model import save_text_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList, TextIteratorStreamer, pipeline

from shardnet.errors import BadRequest, UnsupportedModel
from shardnet.interface.ring_model import RingForCausalLM

IDS = torch.randint(3, 97, (1, 20), generator=torch.Generator().manual_seed(5))
NEW = 12
OPTIONS = {"dtype": "float32", "split": (2, 2, 2), "prefill_chunk_tokens": 4}
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "penalties": {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.7},
    "sampled": {"do_sample": True, "temperature": 0.8, "top_k": 30, "num_return_sequences": 3},
    "sampled beams": {"do_sample": True, "num_beams": 3},
    "no cache": {"do_sample": False, "use_cache": False},
    "in chunks": {"do_sample": False, "prefill_chunk_size": 7},
}


def generated(model: Any, ids: torch.Tensor = IDS, **options: Any) -> list[list[int]]:
    torch.manual_seed(11)
    mask = options.pop("attention_mask", torch.ones_like(ids))
    answer = model.generate(
        ids, attention_mask=mask, max_new_tokens=NEW, eos_token_id=None, pad_token_id=256, **options
    )
    found: list[list[int]] = answer.tolist()
    return found


def num_computed(model: RingForCausalLM) -> list[int]:
    """Tokens that went through each stage since the last time."""
    computed = [report.num_tokens for report in model.ring.report()]
    model.ring.reset_report()
    return computed


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_what_transformers_gives(ringed: RingForCausalLM, whole: Any, way: str) -> None:
    assert generated(ringed, **WAYS[way]) == generated(whole, **WAYS[way])


@pytest.mark.parametrize("way", ["greedy", "beams", "sampled"])
@pytest.mark.parametrize("variant", ["gpt2", "gemma2", "qwen3", "falcon-alibi", "opt"])
def test_families(tiny: Path, tmp_path: Path, variant: str, way: str) -> None:
    save_model(variant, tmp_path, vocab_size=257)
    for file in tiny.glob("*token*"):
        shutil.copy(file, tmp_path)
    attention = reference_attention(VARIANTS[variant][0])
    alone = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation=attention)
    with loaded(tmp_path, [2, 3]) as (_, model):
        assert generated(RingForCausalLM(model), **WAYS[way]) == generated(alone, **WAYS[way])


def test_only_new_tokens_are_computed(tiny: Path, whole: Any) -> None:
    with loaded(tiny, [2, 2, 2]) as (_, model):
        ringed = RingForCausalLM(model)
        for num_prompt, way, num_rows in ((20, "greedy", 1), (1, "beams", 4), (1, "sampled", 3)):
            num_computed(ringed)
            assert generated(ringed, **WAYS[way]) == generated(whole, **WAYS[way])
            assert num_computed(ringed) == [num_prompt + num_rows * (NEW - 1)] * 3


def test_padded_batches(ringed: RingForCausalLM, whole: Any) -> None:
    ids, mask = IDS.repeat(3, 1), torch.ones(3, 20, dtype=torch.long)
    mask[1, :5], mask[2, :19] = 0, 0
    answers = generated(ringed, ids, attention_mask=mask, do_sample=False)
    for row, begin in enumerate((0, 5, 19)):
        assert [answers[row][begin:]] == generated(whole, IDS[:, begin:], do_sample=False)
    with pytest.raises(BadRequest, match="padding_side='left'"):
        generated(ringed, ids, attention_mask=mask.flip(1), do_sample=False)


@pytest.mark.parametrize("way", ["greedy", "sampled"])
def test_a_small_draft_assists(ringed: RingForCausalLM, whole: Any, tmp_path: Path, way: str) -> None:
    draft = AutoModelForCausalLM.from_pretrained(save_text_model(tmp_path, num_blocks=1), dtype=torch.float32)
    options = {**WAYS[way], "num_return_sequences": 1}
    expected = generated(whole, assistant_model=draft, **options)
    assert generated(ringed, assistant_model=draft, **options) == expected
    if way == "greedy":
        assert generated(ringed, assistant_model=ringed, **options) == expected, "all guesses are right"
        assert generated(ringed, prompt_lookup_num_tokens=3, **options) == expected


def test_defaults_are_those_of_the_generation_config(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")
    said = '{"do_sample": true, "top_k": 5, "temperature": 0.7, "max_new_tokens": 9, "cache_implementation": "hybrid"}'
    (folder / "generation_config.json").write_text(said)
    with loaded(folder, [6]) as (_, model):
        ringed = RingForCausalLM(model)
        assert ringed.generation_config.top_k == 5
        torch.manual_seed(0)
        answer = ringed.generate(IDS)
        torch.manual_seed(0)
        alone = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
        assert torch.equal(answer, alone.generate(IDS, do_sample=True, top_k=5, temperature=0.7, max_new_tokens=9))


def test_a_pipeline_takes_it(
    ringed: RingForCausalLM, whole: Any, tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    texts = ["Once upon a time", "In a hole", [{"role": "user", "content": "Who are you?"}]]
    pipes = [pipeline("text-generation", model=model, tokenizer=tokenizer) for model in (ringed, whole)]
    options = {"max_new_tokens": 7, "do_sample": False}
    for text in texts:
        assert pipes[0](text, **options) == pipes[1](text, **options)
    assert pipes[0](texts[:2], batch_size=2, **options) == pipes[1](texts[:2], **options)
    assert "not supported" not in capfd.readouterr().err


def test_tokens_are_masked_and_streamed_as_they_come(ringed: RingForCausalLM, whole: Any, tiny: Path) -> None:
    """As constrained decoders do: a processor of logits forbids all but some tokens."""

    def even(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.masked_fill(torch.arange(scores.shape[-1]) % 2 == 1, -torch.inf)

    options = {"do_sample": False, "logits_processor": LogitsProcessorList([even])}
    answer = generated(ringed, **options)
    assert answer == generated(whole, **options) and all(each % 2 == 0 for each in answer[0][20:])
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    [ids] = generated(ringed, do_sample=False, streamer=streamer)
    assert "".join(streamer) == tokenizer.decode(ids[20:])


def test_peft_is_told_that_there_are_no_weights(ringed: RingForCausalLM) -> None:
    import peft

    with pytest.raises(ValueError, match="No modules were targeted"):
        peft.get_peft_model(ringed, peft.LoraConfig(task_type="CAUSAL_LM"))
    prompted = peft.get_peft_model(ringed, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises((UnsupportedModel, BadRequest, TypeError)):
        prompted(IDS)


def test_another_kind_of_cache_is_refused(ringed: RingForCausalLM) -> None:
    with pytest.raises(BadRequest, match="cache_implementation is not for a model in a ring"):
        generated(ringed, cache_implementation="static")


def after(num_calls: int, model: RingForCausalLM, do: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do this when rows were asked for so many times."""
    calls, read = iter(range(100)), model.ring.read

    def read_then(*given: Any) -> Any:
        if next(calls) == num_calls:
            do()
        return read(*given)

    monkeypatch.setattr(model.ring, "read", read_then)


@pytest.mark.parametrize("way", ["greedy", "beams"])
@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_a_device_is_lost_in_the_midst(
    tiny: Path, whole: Any, quick_watch: None, monkeypatch: pytest.MonkeyPatch, lost: str, way: str
) -> None:
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        ringed = RingForCausalLM(model)
        after(5, ringed, lambda: ring.network.kill(lost), monkeypatch)
        assert generated(ringed, **WAYS[way]) == generated(whole, **WAYS[way])
        assert model.events


def test_what_stays_in_the_ring_is_nobodys(ring: tuple[RingInProcess, RingForCausalLM]) -> None:
    """No session is left, and memory is reserved for none: it may be taken for others."""
    ring_of, ringed = ring
    cache = ringed(IDS).past_key_values
    generated(ringed, **WAYS["beams"])
    ringed.ring._deployment.sessions.settle()  # type: ignore[attr-defined]
    assert cache.get_seq_length() == 20
    stages = [host.stage for worker in ring_of.workers.values() for host in worker._stages.hosts()]
    kvs = [stage.kv for stage in stages if stage is not None]
    assert all(len(kv) == 0 and kv.reserved_bytes == 0 for kv in kvs)
    assert all(kv.budget.reserved_bytes == kv.budget.spare_bytes for kv in kvs)
    assert sum(kv.recent_bytes > 0 for kv in kvs) == 3


class TestOverACluster:
    @pytest.fixture
    def cluster(self, tmp_path: Path, quick_watch: None) -> Iterator[LastingInProcess]:
        with lasting_in_process(3, folder=tmp_path / "state", speed=20.0) as cluster:
            yield cluster

    @pytest.fixture
    def ringed(self, cluster: LastingInProcess, tiny: Path) -> RingForCausalLM:
        cluster.coordinator.begin(str(tiny), OPTIONS).done.result(60)
        return RingForCausalLM(cluster.connect().model)

    @pytest.mark.parametrize("way", ["greedy", "beams", "sampled"])
    def test_a_source_has_the_same(
        self, cluster: LastingInProcess, ringed: RingForCausalLM, whole: Any, way: str
    ) -> None:
        num_computed(ringed)
        assert generated(ringed, **WAYS[way]) == generated(whole, **WAYS[way])
        num_rows = {"greedy": 1, "beams": 4, "sampled": 3}[way]
        assert num_computed(ringed) == [20 + num_rows * (NEW - 1)] * 3
        wait_until(lambda: cluster.num_sessions() == 0)
        assert not cluster.told("session began"), "nobody is told of each of many"

    @pytest.mark.parametrize("lost", ["b", "c"])
    def test_a_device_is_lost_in_the_midst(
        self,
        cluster: LastingInProcess,
        ringed: RingForCausalLM,
        whole: Any,
        monkeypatch: pytest.MonkeyPatch,
        lost: str,
    ) -> None:
        after(4, ringed, lambda: cluster.lose(lost), monkeypatch)
        assert generated(ringed, **WAYS["beams"]) == generated(whole, **WAYS["beams"])

    @pytest.mark.parametrize("kind", ["twice", "request", "answer"])
    def test_what_is_asked_gets_lost(
        self, cluster: LastingInProcess, ringed: RingForCausalLM, whole: Any, kind: str
    ) -> None:
        for endpoint in ("start_session", "read_rows", "close_session"):
            cluster.disturb("@source-1", endpoint, kind)
        assert generated(ringed, **WAYS["greedy"]) == generated(whole, **WAYS["greedy"])

    def test_texts_that_were_read_are_soon_forgotten(self, cluster: LastingInProcess, ringed: RingForCausalLM) -> None:
        """A coordinator remembers no more than so many, and each token is one."""
        generated(ringed, **WAYS["greedy"])
        desk = cluster.coordinator._desk
        wait_until(lambda: all(held.is_closed for held in desk._held.values()))
        desk.look(min(held._until_s - held._lease_s for held in desk._held.values()))
        assert len(desk._held) == NEW
        desk.look(max(held._until_s - 0.8 * held._lease_s for held in desk._held.values()))
        assert not desk._held
