"""What an answer may be asked for, over whole rings: the same for every split, with guesses, and whatever is lost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import PROMPT, alone, loaded
from lasting_in_process import LastingInProcess, ids_of, lasting_in_process
from transformers import AutoModelForCausalLM

from shardnet.cluster.model import Model
from shardnet.errors import BadRequest

NUM_TOKENS = 24
LOADED: dict[str, Any] = {"dtype": "float32", "split": (2, 2, 2), "prefill_chunk_tokens": 4}
PENALISED = {"presence_penalty": 1.2, "frequency_penalty": 0.6, "logit_bias": {40: 1.5, 41: -100}}


@pytest.fixture(scope="module")
def plain(tiny: Path) -> list[int]:
    """The greedy answer."""
    return alone(tiny, [PROMPT], NUM_TOKENS)[0]


@pytest.fixture(scope="module")
def penalised(tiny: Path) -> list[int]:
    return by_hand(tiny, **PENALISED)


def by_hand(folder: Path, *, ends: tuple[int, ...] = (), min_tokens: int = 0, **options: Any) -> list[int]:
    """The greedy answer with options, by the formulas."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answer: list[int] = []
    while len(answer) < NUM_TOKENS and (len(answer) <= min_tokens or answer[-1] not in ends):
        with torch.no_grad():
            scores = model(torch.tensor([[*PROMPT, *answer]])).logits[0, -1]
        for token_id, bias in options.get("logit_bias", {}).items():
            scores[token_id] += bias
        for token_id, count in Counter(answer).items():
            scores[token_id] -= options.get("presence_penalty", 0.0) + count * options.get("frequency_penalty", 0.0)
        if len(answer) < min_tokens:
            scores[list(ends)] = -math.inf
        answer.append(int(scores.argmax()))
    return answer


@pytest.mark.parametrize("speculate", ["off", "lookup"])
@pytest.mark.parametrize("split", [[6], [1, 5], [5, 1], [2, 2, 2]])
def test_every_split_answers_alike(
    tiny: Path, split: list[int], speculate: str, plain: list[int], penalised: list[int]
) -> None:
    assert penalised != plain
    with loaded(tiny, split) as (_, model):
        [result] = model.generate([PROMPT], max_new_tokens=NUM_TOKENS, speculate=speculate, **PENALISED)
        assert result.token_ids == penalised
        end = plain[5]
        for least in (0, 3, 9, NUM_TOKENS):
            [result] = model.generate(
                [PROMPT], max_new_tokens=NUM_TOKENS, speculate=speculate, stop_token_ids=end, min_tokens=least
            )
            assert result.token_ids == by_hand(tiny, ends=(end,), min_tokens=least)
            assert result.finish_reason == ("stop" if result.token_ids[-1] == end else "length")


def test_a_token_that_ends_an_answer_is_not_in_its_text(tiny: Path, plain: list[int]) -> None:
    end = plain[5]
    length = plain.index(end)
    with loaded(tiny, [3, 3]) as (_, model):
        [stopped] = model.generate([PROMPT], max_new_tokens=NUM_TOKENS, stop_token_ids=[7, end])
        assert stopped.finish_reason == "stop" and stopped.token_ids == plain[: length + 1]
        assert stopped.text == model.tokenizer.decode(plain[:length], skip_special_tokens=True)
        model.eos_ids = (end,)
        [ended] = model.generate([PROMPT], max_new_tokens=NUM_TOKENS)
        assert ended.finish_reason == "eos" and ended.token_ids == plain[: length + 1] and ended.text == stopped.text
        [goes_on] = model.generate([PROMPT], max_new_tokens=NUM_TOKENS, ignore_eos=True, min_tokens=NUM_TOKENS)
        assert goes_on.token_ids == plain and goes_on.finish_reason == "length"
        [late] = model.generate([PROMPT], max_new_tokens=NUM_TOKENS, min_tokens=12)
        assert late.token_ids == by_hand(tiny, ends=(end,), min_tokens=12)


@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_a_lost_device_changes_nothing(tiny: Path, quick_watch: None, lost: str, penalised: list[int]) -> None:
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        ring.slow_down(0.002)
        with model.stream(PROMPT, max_new_tokens=NUM_TOKENS, speculate="lookup", **PENALISED) as stream:
            ids = [token_id for _, token_id in zip(range(9), stream.ids(), strict=False)]
            ring.network.kill(lost)
            assert ids + list(stream.ids()) == penalised


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"presence_penalty": 2.1}, "presence_penalty must be between -2 and 2, but is 2.1."),
        ({"frequency_penalty": "1"}, "frequency_penalty must be a number, but is '1'."),
        ({"logit_bias": {5: 101}}, "the logit_bias of the token 5 must be between -100 and 100, but is 101.0."),
        ({"logit_bias": {5: math.nan}}, "the logit_bias of the token 5 must be between -100 and 100, but is nan."),
        ({"logit_bias": {-5: 1}}, "a token id of logit_bias must be at least 0, but is -5."),
        ({"logit_bias": {"five": 1}}, "a token id of logit_bias must be a whole number, but is 'five'."),
        ({"logit_bias": {"5": 1, 5: 2}}, "logit_bias names the token 5 twice. Name it once."),
        ({"logit_bias": [5]}, "logit_bias must be a mapping of token ids to numbers, or pairs of these, but one is 5."),
        ({"logit_bias": 5}, "logit_bias must be a mapping of token ids to numbers, or pairs of these, but is 5."),
        ({"logit_bias": {9999: 1}}, "logit_bias names the token 9999, but the ids of this model end at "),
        ({"stop_token_ids": [9999]}, "stop_token_ids names the token 9999, but the ids of this model end at "),
        ({"stop_token_ids": [True]}, "a token id of stop_token_ids must be a whole number, but is True."),
        ({"stop_token_ids": "5"}, "a token id of stop_token_ids must be a whole number, but is '5'."),
        (
            {"min_tokens": 9, "max_new_tokens": 8},
            "min_tokens must be at most the 8 tokens that the answer may have, but is 9.",
        ),
    ],
)
def test_what_is_impossible_is_one_sentence(model: Model, asked: dict[str, Any], sentence: str) -> None:
    for ask in (model.stream, lambda prompt, **options: model.generate([prompt], **options)):
        with pytest.raises(BadRequest) as refused:
            ask(PROMPT, **asked)
        assert str(refused.value).startswith(sentence)


@pytest.fixture(scope="module")
def model(tiny: Path) -> Iterator[Model]:
    with loaded(tiny, [3, 3]) as (_, model):
        yield model


class TestOverACluster:
    @pytest.fixture
    def cluster(self, tmp_path: Path, tiny: Path, quick_watch: None) -> Iterator[LastingInProcess]:
        with lasting_in_process(3, folder=tmp_path / "state") as cluster:
            cluster.coordinator.begin(str(tiny), LOADED).done.result(60)
            yield cluster

    def test_its_coordinator_is_killed(self, cluster: LastingInProcess, tiny: Path, penalised: list[int]) -> None:
        cluster.network.delay("b", "c", 0.02)
        with cluster.connect() as source:
            stream = source.model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **PENALISED)
            ids = [token_id for _, token_id in zip(range(7), stream.ids(), strict=False)]
            cluster.kill()
            cluster.restart()
            cluster.coordinator.begin(str(tiny), LOADED)
            assert ids + list(stream.ids()) == penalised

    def test_an_answer_that_broke_off_is_resumed(
        self, cluster: LastingInProcess, tiny: Path, penalised: list[int]
    ) -> None:
        cluster.network.delay("b", "c", 0.02)
        source = cluster.connect()
        end = next(each for index, each in enumerate(penalised) if index >= 15 and each not in penalised[12:index])
        asked = {"max_new_tokens": NUM_TOKENS, "stop_token_ids": end, "min_tokens": 12}
        expected = by_hand(tiny, ends=(end,), min_tokens=12, **PENALISED)
        stream = source.model.stream(PROMPT, **asked, **PENALISED)
        for _ in zip(range(7), stream.ids(), strict=False):
            pass
        source.unload()
        with pytest.raises(BadRequest, match="shardnet resume 1"):
            ids_of(stream)
        source.load(tiny, dtype="float32", split=(3, 2, 1), prefill_chunk_tokens=4)
        [broken] = source.broken_off
        assert broken.sampling.logit_bias == ((40, 1.5), (41, -100.0)) and 7 <= broken.num_tokens < 15
        resumed = source.resume()
        assert ids_of(resumed) == expected and resumed.result.finish_reason == "stop"
