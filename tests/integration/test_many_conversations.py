"""Many conversations at once, begun and given up by many threads: each text is the text that it has alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from in_process_ring import alone

import shardnet
from shardnet.cluster.model import Model

pytestmark = pytest.mark.usefixtures("warm_devices")

NUM_THREADS = 12
NUM_WORDS = (3, 300)
NUM_TOKENS = 10
VOCABULARY = 257


@pytest.fixture(scope="module")
def model(tiny: Path) -> Iterator[Model]:
    with shardnet.Cluster.local(3, threads_per_device=1) as cluster:
        with cluster.load(tiny, dtype="float32", split=[2, 2, 2], prefill_chunk_tokens=48) as model:
            yield model


@pytest.mark.parametrize("num_conversations", [60, pytest.param(300, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
def test_each_text_is_the_one_that_its_prompt_has_alone(model: Model, tiny: Path, num_conversations: int) -> None:
    """Once, two conversations begun at the same moment could swap the rows of their prompts: one went on with the
    other's text, and no test noticed. Some are given up half way, so that rows of closed sessions are on their way."""
    random = Random(num_conversations)
    prompts = [
        [random.randrange(VOCABULARY - 1) for _ in range(random.randint(*NUM_WORDS))] for _ in range(num_conversations)
    ]
    expected = alone(tiny, prompts, NUM_TOKENS)
    given_up = {index: random.randrange(NUM_TOKENS) for index in range(num_conversations) if random.random() < 0.25}

    def converse(index: int) -> list[int]:
        stream = model.stream(prompts[index], max_new_tokens=NUM_TOKENS)
        if index in given_up:
            for _ in islice(stream, given_up[index]):
                pass
            stream.close()
        else:
            for _ in stream:
                pass
        return stream.result.token_ids

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        answers = list(threads.map(converse, range(num_conversations)))
    for index, answer in enumerate(answers):
        assert answer == expected[index][: len(answer)], f"conversation {index} of {len(prompts[index])} tokens"
        assert index in given_up or len(answer) == len(expected[index])
    model._deployment.sessions.settle()
    deadline = time.monotonic() + 10
    while any(report.kv_reserved_bytes for report in model.report()):
        assert time.monotonic() < deadline, "a session was left open"
