"""A draft draws with the random numbers of the ring: where both models are one, it draws what the ring draws, in
whatever order tokens are drawn again.
"""

from __future__ import annotations

from random import Random

import pytest
import torch

from shardnet.draft.choosing import Choosing
from shardnet.session.request import session_spec
from shardnet.stage.sampling import Sampler
from shardnet.transport.session_messages import SamplingOptions

VOCABULARY = 300
NUM_TOKENS = 40
PROMPT = [5, 6, 7]
WAYS = [
    SamplingOptions(),
    SamplingOptions(temperature=1.0, seed=3),
    SamplingOptions(temperature=0.8, top_k=50, top_p=0.9, seed=4),
    SamplingOptions(temperature=1.2, min_p=0.05, repetition_penalty=1.4, seed=5),
    SamplingOptions(repetition_penalty=1.3),
]


def scores(seed: int = 1) -> torch.Tensor:
    return torch.randn(NUM_TOKENS, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


def drawn(sampling: SamplingOptions) -> list[int]:
    spec = session_spec(0, len(PROMPT), NUM_TOKENS, (), sampling)._replace(prompt_ids=tuple(PROMPT))
    sampler = Sampler(spec, torch.float32)
    return [sampler.sample(row) for row in scores()]


@pytest.mark.parametrize("sampling", WAYS)
@pytest.mark.parametrize("seed", range(5))
def test_each_token_is_the_one_that_the_ring_draws(sampling: SamplingOptions, seed: int) -> None:
    """It goes ahead, goes back where it was wrong, and passes over tokens that it hears before it guesses them."""
    truth, random = drawn(sampling), Random(seed)
    choosing = Choosing(session_spec(0, len(PROMPT), NUM_TOKENS, (), sampling), torch.float32, VOCABULARY)
    index = 0
    while index < NUM_TOKENS:
        for ahead in range(index, min(index + random.randint(0, 5), NUM_TOKENS)):
            ids = [*PROMPT, *truth[:ahead]]
            if random.random() < 0.2:  # it believes in something else
                choosing.choose(scores(2)[ahead], ahead, [*ids[:-1], 9])
            else:
                assert choosing.choose(scores()[ahead], ahead, ids) == truth[ahead]
        index += random.randint(1, 3)


def test_a_draft_of_more_or_fewer_ids_draws_the_same_numbers() -> None:
    truth = drawn(WAYS[1])
    for width in (VOCABULARY - 20, VOCABULARY + 33):
        choosing = Choosing(session_spec(0, len(PROMPT), NUM_TOKENS, (), WAYS[1]), torch.float32, VOCABULARY)
        found = []
        for index in range(NUM_TOKENS):
            row = torch.full((width,), 50.0)
            row[: min(width, VOCABULARY)] = scores()[index, : min(width, VOCABULARY)]
            found.append(choosing.choose(row, index, [*PROMPT, *truth[:index]]))
        assert all(guess is not None and guess < VOCABULARY for guess in found)
        assert sum(guess == token_id for guess, token_id in zip(found, truth, strict=True)) >= 0.8 * NUM_TOKENS


def test_scores_that_are_no_numbers_are_no_guess() -> None:
    choosing = Choosing(session_spec(0, 3, 8, (), WAYS[1]), torch.float32, VOCABULARY)
    assert choosing.choose(torch.full((VOCABULARY,), float("nan")), 0, PROMPT) is None
    assert choosing.choose(scores()[0], 0, PROMPT) == drawn(WAYS[1])[0]
