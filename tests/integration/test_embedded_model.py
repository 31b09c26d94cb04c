"""The test that matters most: the answer of the ring is the answer of the whole model, token for token.

Real processes over real RPC, and a real model with text and long prompts, in rings of one, two, three and five stages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer
from whole_embedded import whole_embedded

import shardnet
from shardnet.loader import open_model

pytestmark = [pytest.mark.usefixtures("warm_devices"), pytest.mark.timeout(600)]

EMBEDDED = "smollm2-135m-instruct"
STORY = "Once upon a time, in a village between two rivers, there lived a clockmaker who had never been late. "


@pytest.fixture(scope="module")
def whole() -> Any:
    """The embedded model in one process, by `transformers`."""
    return whole_embedded(torch.float32)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Twenty prompts of 3 to 600 tokens."""
    ids = AutoTokenizer.from_pretrained(open_model(EMBEDDED, "float32").folder)(STORY * 40)["input_ids"]
    sizes = [3, 4, 5, 7, 9, 12, 16, 21, 28, 37, 48, 64, 85, 112, 128, 129, 200, 300, 450, 600]
    return [ids[index : index + size] for index, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[shardnet.Cluster]:
    with shardnet.Cluster.local(5, threads_per_device=1) as cluster:
        yield cluster


def answered(
    cluster: shardnet.Cluster, split: list[int], prompts: list[list[int]], num_tokens: int, alone_index: int
) -> list[list[int]]:
    """What the ring of the embedded model answers to all prompts at once. One of them is answered again, alone."""
    with cluster.load(EMBEDDED, dtype="float32", split=split) as model:
        assert [stage.num_units for stage in model.plan.stages] == [size for size in split if size]
        results = model.generate(prompts, max_new_tokens=num_tokens)
        assert [result.prompt_tokens for result in results] == [len(prompt) for prompt in prompts]
        [alone] = model.generate([prompts[alone_index]], max_new_tokens=8)
        assert alone.token_ids == results[alone_index].token_ids[:8]
    return [result.token_ids for result in results]


@pytest.fixture(scope="module")
def of_three_stages(cluster: shardnet.Cluster, prompts: list[list[int]]) -> list[list[int]]:
    return answered(cluster, [0, 13, 12, 0, 7], prompts, 64, alone_index=-1)


def test_greedy_fp32_is_what_transformers_generates(
    whole: Any, prompts: list[list[int]], of_three_stages: list[list[int]]
) -> None:
    """One pass over prompt and answer shows what comes after each token of it. Where that is the answer's own next
    token throughout, `generate`, which begins with the same prompt, answers the same; it takes three times as long.
    """
    for prompt, answer in zip(prompts, of_three_stages, strict=True):
        assert len(answer) == 64
        with torch.inference_mode():
            logits = whole(torch.tensor([prompt + answer[:-1]]), logits_to_keep=64, use_cache=False).logits
        assert logits[0].argmax(-1).tolist() == answer


@pytest.mark.parametrize("split", [[32, 0, 0, 0, 0], [0, 0, 15, 17, 0], [7, 6, 6, 6, 7]])
def test_every_number_of_stages_gives_the_same(
    cluster: shardnet.Cluster, prompts: list[list[int]], of_three_stages: list[list[int]], split: list[int]
) -> None:
    assert answered(cluster, split, prompts, 24, alone_index=12) == [answer[:24] for answer in of_three_stages]
