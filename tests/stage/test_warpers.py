"""Scores come out of our warpers bit for bit as out of the processors of `transformers` that they stand for."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from transformers.generation import logits_process as theirs

from shardnet.stage.warpers import add_bias, forbid, penalise, penalise_answer, warpers_of
from shardnet.transport.session_messages import SamplingOptions

SIZES = (2, 50, 49152)
KINDS = ("spread", "flat", "even", "impossible", "half")


def scores_of(kind: str, size: int, seed: int) -> torch.Tensor:
    """[1, V] float32."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(1, size, generator=generator) * {"spread": 8.0, "flat": 0.01}.get(kind, 3.0)
    if kind == "even":
        scores = scores.round()
    if kind == "impossible":
        scores[torch.rand(1, size, generator=generator) < 0.5] = -math.inf
        scores[0, 0] = 0.0
    return scores.bfloat16().float() if kind == "half" else scores


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("options", "processor"),
    [
        ({"temperature": 0.7}, theirs.TemperatureLogitsWarper(0.7)),
        ({"temperature": 1e-40}, theirs.TemperatureLogitsWarper(1e-40)),
        ({"top_k": 1}, theirs.TopKLogitsWarper(1)),
        ({"top_k": 40}, theirs.TopKLogitsWarper(40)),
        ({"top_p": 0.9}, theirs.TopPLogitsWarper(0.9)),
        ({"top_p": 0.01}, theirs.TopPLogitsWarper(0.01)),
        ({"min_p": 0.05}, theirs.MinPLogitsWarper(0.05)),
        ({"min_p": 1.0}, theirs.MinPLogitsWarper(1.0)),
    ],
)
def test_each_option_does_what_transformers_does(
    options: dict[str, Any], processor: theirs.LogitsProcessor, size: int, kind: str
) -> None:
    [warp] = warpers_of(SamplingOptions(**({"temperature": 1.0} | options)))
    for seed in range(3):
        scores = scores_of(kind, size, seed)
        expected = processor(torch.zeros(1, 0, dtype=torch.long), scores.clone())
        assert torch.equal(warp(scores), expected), seed


@pytest.mark.parametrize("penalty", [1.3, 0.5, 1e-45])
@pytest.mark.parametrize("ids", [[], [3], [3, 17, 3, 49], [49, 60, 10**6]])
def test_penalties_are_those_of_transformers(penalty: float, ids: list[int]) -> None:
    """Ids that have no score are passed over."""
    given = torch.tensor([ids], dtype=torch.long)
    for kind in KINDS:
        scores = scores_of(kind, 50, seed=1)
        expected = theirs.RepetitionPenaltyLogitsProcessor(penalty)(given, scores.clone())
        assert torch.equal(penalise(scores, given, penalty), expected), kind


@pytest.mark.parametrize("kind", KINDS)
def test_biases_are_those_of_transformers(kind: str) -> None:
    bias = ((3, -100.0), (17, 2.5), (49, 0.1))
    theirs_of = theirs.SequenceBiasLogitsProcessor([[[token_id], each] for token_id, each in bias])
    scores = scores_of(kind, 50, seed=1)
    assert torch.equal(add_bias(scores, bias), theirs_of(torch.zeros(1, 3, dtype=torch.long), scores.clone()))


@pytest.mark.parametrize("num_answered", [0, 4, 5])
def test_what_would_end_the_answer_is_impossible_where_it_is_for_transformers(num_answered: int) -> None:
    prompt, least, ends = 3, 5, [7, 49]
    processor = theirs.MinNewTokensLengthLogitsProcessor(prompt, least, ends, device="cpu")
    scores = scores_of("spread", 50, seed=1)
    expected = processor(torch.zeros(1, prompt + num_answered, dtype=torch.long), scores.clone())
    found = forbid(scores, [*ends, -1, 50]) if num_answered < least else scores
    assert torch.equal(found, expected)


@pytest.mark.parametrize("answer", [[3], [3, 17, 3, 49, 3]])
@pytest.mark.parametrize(("presence", "frequency"), [(0.5, 0.0), (0.0, 1.5), (-2.0, 0.25)])
def test_tokens_of_the_answer_lose_what_the_formula_says(answer: list[int], presence: float, frequency: float) -> None:
    """https://platform.openai.com/docs/guides/text-generation: mu[j] - c[j] * frequency - (c[j] > 0) * presence."""
    scores = scores_of("spread", 50, seed=2)
    counts = torch.bincount(torch.tensor(answer), minlength=50)
    expected = scores - counts * frequency - (counts > 0) * presence
    found = penalise_answer(scores, Counter(answer), presence, frequency)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(found[0, counts == 0], scores[0, counts == 0])


def test_top_p_behind_top_k_keeps_what_transformers_keeps() -> None:
    """It sorts only what top-k kept; scores that are even are passed over: there the sort of transformers decides."""
    options = SamplingOptions(temperature=0.8, top_k=40, top_p=0.9, min_p=0.02)
    processors = [
        theirs.TemperatureLogitsWarper(0.8),
        theirs.TopKLogitsWarper(40),
        theirs.TopPLogitsWarper(0.9),
        theirs.MinPLogitsWarper(0.02),
    ]
    for size in SIZES:
        for seed in range(20):
            scores = expected = scores_of("spread", size, seed)
            for warp in warpers_of(options):
                scores = warp(scores)
            for processor in processors:
                expected = processor(torch.zeros(1, 0, dtype=torch.long), expected)
            assert torch.equal(scores, expected), (size, seed)


def test_greedy_decoding_warps_nothing() -> None:
    assert not warpers_of(SamplingOptions(temperature=0.0, top_k=5, top_p=0.5, min_p=0.5))
