"""What a ring answers, and what it refuses: real processes over real RPC, with a tiny random model.

See test_embedded_model.py for text and long prompts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text_model import save_text_model
from transformers import AutoModelForCausalLM

import shardnet
from shardnet.cluster.model import Model
from shardnet.errors import BadRequest, DoesNotFit, KVMemorySpent
from shardnet.loader import open_model

pytestmark = pytest.mark.usefixtures("warm_devices")


@pytest.fixture(scope="module")
def cluster() -> Iterator[shardnet.Cluster]:
    with shardnet.Cluster.local(3, threads_per_device=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def model(cluster: shardnet.Cluster, tiny: Path) -> Iterator[Model]:
    with cluster.load(tiny, dtype="float32", prefill_chunk_tokens=16) as model:
        yield model


SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 60, "top_p": 0.95, "repetition_penalty": 1.1, "seed": 11}


def test_sampled_answer_is_that_of_transformers_and_the_same_for_every_split(
    cluster: shardnet.Cluster, tiny: Path
) -> None:
    whole = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    prompt = list(range(40, 75))
    options = {name: value for name, value in SAMPLED.items() if name != "seed"}
    torch.manual_seed(SAMPLED["seed"])
    ids = torch.tensor([prompt])
    output = whole.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=True, pad_token_id=0, **options
    )
    expected = output[0, len(prompt) :].tolist()
    for split in ([6, 0, 0], [1, 4, 1], [2, 2, 2], [1, 0, 5], [5, 1, 0]):
        with cluster.load(tiny, dtype="float32", split=split, prefill_chunk_tokens=8) as model:
            [result] = model.generate([prompt], max_new_tokens=32, **SAMPLED)
            assert result.token_ids == expected, split


def test_eight_sessions_at_once_give_what_each_gives_alone(model: Model) -> None:
    prompts = [list(range(30 + 5 * index, 40 + 18 * index)) for index in range(8)]
    options = [{**SAMPLED, "seed": index} if index % 2 else {} for index in range(8)]

    def answer(index: int) -> list[int]:
        return model.generate([prompts[index]], max_new_tokens=24, **options[index])[0].token_ids

    alone = [answer(index) for index in range(8)]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(answer, range(8)))
    assert together == alone


def test_pieces_add_up_and_a_stop_string_ends_the_answer_before_it(model: Model) -> None:
    stream = model.stream("Hello", max_new_tokens=24)
    text = "".join(stream)
    assert text == stream.result.text == model.tokenizer.decode(stream.result.token_ids, skip_special_tokens=True)
    assert stream.result.finish_reason == "length"
    stop = text[5:8]
    [stopped] = model.generate(["Hello"], max_new_tokens=24, stop=[stop])
    assert stopped.text == text[: text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_scores_that_overflow_end_the_answer_and_not_the_model(cluster: shardnet.Cluster, tmp_path: Path) -> None:
    """Once, greedy decoding took the first infinite score, or told token 0 for each NaN, and called that a success."""
    whole = AutoModelForCausalLM.from_pretrained(save_text_model(tmp_path))
    with torch.no_grad():
        whole.lm_head.weight[3:].mul_(1e7)  # beyond what float16 can hold
    whole.save_pretrained(tmp_path)
    with cluster.load(tmp_path, dtype="float16") as model:
        for options in ({}, {"temperature": 1.0}):
            with pytest.raises(BadRequest, match=r"in float16, are no finite numbers.*bfloat16 or float32"):
                model.generate([[5, 6, 7]], max_new_tokens=4, **options)
        assert model._deployment.sessions.num_open == 0


def test_end_of_sequence_ends_the_answer(model: Model) -> None:
    [free] = model.generate(["abc"], max_new_tokens=10)
    end = free.token_ids[3]
    model.eos_ids, eos_ids = (end,), model.eos_ids
    try:
        [ended] = model.generate(["abc"], max_new_tokens=10)
    finally:
        model.eos_ids = eos_ids
    assert ended.finish_reason == "eos"
    assert ended.token_ids == free.token_ids[: free.token_ids.index(end) + 1]


def test_cancelled_session_frees_its_memory_everywhere(model: Model) -> None:
    stream = model.stream("A long answer", max_new_tokens=2000)
    pieces = iter(stream)
    next(pieces)
    assert sum(report.kv_reserved_bytes for report in model.report()) > 0
    stream.close()
    for _ in pieces:
        pass
    assert stream.result.finish_reason == "cancelled"
    model._deployment.sessions.settle()
    assert all(report.kv_reserved_bytes == 0 for report in model.report())


def test_answers_for_an_event_loop_are_those_of_generate_and_end_with_their_task(model: Model) -> None:
    prompts = ["one", "two", "three"]
    expected = model.generate(prompts, max_new_tokens=12)

    async def read(prompt: str) -> tuple[str, list[int]]:
        stream = model.astream(prompt, max_new_tokens=12)
        return "".join([piece async for piece in stream]), stream.result.token_ids

    async def ask() -> None:
        at_once, *streamed = await asyncio.gather(
            model.agenerate(prompts, max_new_tokens=12), *(read(prompt) for prompt in prompts)
        )
        assert [each.token_ids for each in at_once] == [each.token_ids for each in expected]
        assert streamed == [(each.text, each.token_ids) for each in expected]
        begun = model.astream("a", max_new_tokens=4000)
        await begun.__anext__()
        for endless in (
            model.agenerate(["a"] * 3, max_new_tokens=4000),
            model.astream("a", max_new_tokens=4000).__anext__(),
            read_on(begun),
        ):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(endless, 0.001)

    async def read_on(stream: shardnet.AsyncStream) -> None:
        async for _ in stream:
            pass

    asyncio.run(ask())
    while model._deployment.sessions.num_open:  # the one whose session was still being opened
        time.sleep(0.01)
    model._deployment.sessions.settle()
    assert all(report.kv_reserved_bytes == 0 for report in model.report())


def test_chat_template_is_applied(model: Model) -> None:
    ids = model.encode("hi", chat=True)
    assert model.tokenizer.decode(ids) == "user: hi\nanswer:"
    assert model.encode([{"role": "user", "content": "hi"}]) == ids


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ("", {}, "empty"),
        ([99999], {}, "99999"),
        ("x" * 4000, {"max_new_tokens": 200}, "4096"),
        ("x", {"max_new_tokens": 0}, "max_new_tokens"),
        ("x", {"temperature": -1.0}, "temperature"),
        ("x", {"top_p": 2.0}, "top_p"),
        ("x", {"stop": [""]}, "stop"),
        ("x", {"max_new_tokens": "5"}, "max_new_tokens must be a whole number, but is '5'"),
        ("x", {"temperature": None}, "temperature must be a number"),
        (None, {}, "but is None"),
    ],
)
def test_impossible_request_says_what_to_do_and_the_model_lives_on(
    model: Model, prompt: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadRequest, match=words):
        model.stream(prompt, **options)
    assert model.generate(["still here"], max_new_tokens=2)[0].token_ids


def test_an_option_that_is_none_is_named_with_its_function(model: Model, cluster: shardnet.Cluster, tiny: Path) -> None:
    """Once: "GenerationOptions.__init__() got an unexpected keyword argument 'bogus'"."""
    for call, name in (
        (model.stream, "stream"), (model.generate, "generate"), (model.astream, "astream"),
        (lambda *args, **options: asyncio.run(model.agenerate(*args, **options)), "agenerate"), (cluster.load, "load"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=rf"^{name}\(\) has no option 'bogus'"):
            call("x", bogus=1)  # type: ignore[operator]


def test_one_of_several_sessions_that_cannot_go_on_ends_alone(model: Model) -> None:
    """Once, scores that overflowed stopped the last stage, and everybody had to load the model again."""
    with ThreadPoolExecutor(4) as threads:
        expected = model.generate(["fine"], max_new_tokens=40)[0].token_ids
        fine = [threads.submit(model.generate, ["fine"], max_new_tokens=40) for _ in range(3)]
        with pytest.raises(BadRequest, match="temperature 1e-40"):
            model.generate(["hot"], max_new_tokens=40, temperature=1e-40)
        assert all(each.result()[0].token_ids == expected for each in fine)
    model._deployment.sessions.settle()
    assert all(report.kv_reserved_bytes == 0 for report in model.report())


def test_a_list_of_prompts_is_checked_before_the_first_is_answered(model: Model) -> None:
    model.reset_report()
    for prompts in (["x", "y" * 5000], ["x", ""], ["x", [99999]], "x", ""):
        with pytest.raises(BadRequest):
            model.generate(prompts, max_new_tokens=8)
    assert sum(report.num_tokens for report in model.report()) == 0


def test_context_and_kv_memory_may_be_filled_to_the_last_token(cluster: shardnet.Cluster, tiny: Path) -> None:
    kept = 64 * 4 + 8  # what the first device sends, and an id
    per_token = 2 * 2 * 2 * 16 * 4 + kept  # of the two blocks of each device
    options: dict[str, Any] = {"dtype": "float32", "split": [3, 3, 0], "context_tokens": 60}
    with cluster.load(tiny, kv_memory_bytes=60 * per_token, **options) as model:
        [full] = model.generate(["a" * 50], max_new_tokens=10)
        assert len(full.token_ids) == 10
        assert len(model.generate(["a"], max_new_tokens=1)[0].token_ids) == 1
        with pytest.raises(BadRequest, match="holds 60"):
            model.generate(["a" * 50], max_new_tokens=11)
    with cluster.load(tiny, kv_memory_bytes=60 * per_token - 1, **options) as model:
        with pytest.raises(KVMemorySpent):
            model.generate(["a" * 50], max_new_tokens=10)


def test_kv_memory_that_is_spent_is_a_clear_error_and_waiting_prompts_get_their_turn(
    cluster: shardnet.Cluster, tiny: Path
) -> None:
    kept = 64 * 4 + 8  # what the first device sends, and an id
    per_token = 4 * 2 * 2 * 16 * 4 + kept  # 4 blocks, key and value, 2 heads of 16, float32 on the first device
    with cluster.load(tiny, dtype="float32", split=[5, 1, 0], kv_memory_bytes=100 * per_token) as model:
        first = model.stream("a" * 50, max_new_tokens=50)
        with pytest.raises(KVMemorySpent, match="KV cache"):
            model.stream("b" * 150, max_new_tokens=10)
        assert len("".join(first)) > 0
        results = model.generate(["c" * 60] * 5, max_new_tokens=20)
        assert [len(result.token_ids) for result in results] == [20] * 5
        assert len({tuple(result.token_ids) for result in results}) == 1
        with pytest.raises(KVMemorySpent, match="KV cache"):
            model.generate(["d" * 500], max_new_tokens=10)


def test_more_devices_than_units_and_wrong_splits_are_refused(cluster: shardnet.Cluster, tiny: Path) -> None:
    with pytest.raises(BadRequest, match="6 units"):
        cluster.load(tiny, split=[2, 2, 1])
    with pytest.raises(BadRequest, match="split"):
        cluster.load(tiny, split=[3, 3])
    for how in ({}, {"split": [2, 2, 2]}, {"placement": "auto"}):
        with pytest.raises(DoesNotFit, match=r"1048576.00 GiB (that|of) kv_memory_bytes.* [Ss]et less aside, "):
            cluster.load(tiny, kv_memory_bytes=2**50, **how)
    with pytest.raises(BadRequest, match="dtype"):
        cluster.load(tiny, dtype="int7")
    with pytest.raises(BadRequest, match="4096"):
        cluster.load(tiny, context_tokens=10_000)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"split": "222"}, "list of units"),
        ({"split": [2.0, 2, 2]}, "whole number"),
        ({"context_tokens": 10.5}, "context_tokens must be a whole number"),
        ({"kv_memory_bytes": "1"}, "kv_memory_bytes must be a whole number"),
        ({"prefill_chunk_tokens": 10**30}, "prefill_chunk_tokens must be at most"),
        ({"cache_dir": 5}, "cache_dir is a folder, but this is 5"),
        ({"placement": "best"}, "placement must be one of spread, auto"),
        ({"objective": "fun"}, "objective must be one of latency"),
    ]
    for options, words in wrong:
        with pytest.raises(BadRequest, match=words):
            cluster.load(tiny, **options)
    with pytest.raises(BadRequest, match="a path or a hub id"):
        cluster.load(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", ["int4", "w8a8"])
def test_weights_of_few_bits_answer_alike_for_every_split(cluster: shardnet.Cluster, tiny: Path, weights: str) -> None:
    prompt, answers, held = list(range(40, 75)), [], []
    for split in ([6, 0, 0], [2, 2, 2], [1, 0, 5]):
        with cluster.load(tiny, dtype="float32", weights=weights, split=split, prefill_chunk_tokens=8) as model:
            [result] = model.generate([prompt], max_new_tokens=24)
            answers.append(result.token_ids)
            held.append(sum(report.weight_bytes for report in model.report()))
    assert answers[0] == answers[1] == answers[2]
    with cluster.load(tiny, dtype="float32", split=[2, 2, 2]) as model:
        assert held[1] < sum(report.weight_bytes for report in model.report()) / 2


def test_a_model_that_was_opened_for_other_weights_is_refused(cluster: shardnet.Cluster, tiny: Path) -> None:
    files = open_model(str(tiny), "bfloat16", weights="int4")
    with pytest.raises(BadRequest, match="was opened with weights int4, but weights is auto"):
        cluster.load(files)
