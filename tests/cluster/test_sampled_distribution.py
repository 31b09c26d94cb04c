"""Ten thousand tokens that are sampled with guesses have the distribution that the model's scores say.

Of every token it is known with which probability each other one could have stood in its place. Laid one behind the
other, the likeliest first, these fill the interval from 0 to 1; the token that came covers a part of that, and a point
drawn in this part is uniform where sampling is right (Rosenblatt 1952). Points are counted in 50 bins: Pearson's
chi-square, at a significance of 0.1% that was fixed beforehand. Were a guess that is likely accepted too often, the
first bins would be too full.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from guesses import OracleGuesser
from in_process_ring import loaded
from torch import Tensor

from shardnet.cluster.model import Model
from shardnet.speculation.laps import Laps
from shardnet.stage import front

NUM_ANSWERS, NUM_TOKENS = 250, 40
AT_ONCE = 50
TEMPERATURE = 0.03
NUM_BINS = 50
CRITICAL = 85.351
"""Of a chi-square with 49 degrees of freedom: exceeded with a probability of 0.1%."""
PROMPT = [5, 6, 7, 8, 9]


class Successors:
    """Guesses what most often came behind a token in other answers. In the place of `guesses.Oracle`."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        counts: dict[int, Counter[int]] = {}
        for text in texts:
            for one, next_one in pairwise(text):
                counts.setdefault(one, Counter())[next_one] += 1
        self._likeliest = {one: each.most_common(1)[0][0] for one, each in counts.items()}
        self.num_right = self.num_guessed = self.num_further = 0

    def guesser(self, _way: str, _laps: Laps, _most_tokens: int) -> OracleGuesser:
        return OracleGuesser(self)  # type: ignore[arg-type]

    def guess(self, known: list[int], in_flight: list[int], most: int) -> list[int]:
        guesses: list[int] = []
        last = [*known, *in_flight][-1]
        while len(guesses) < min(most, 4) and last in self._likeliest:
            last = self._likeliest[last]
            guesses.append(last)
        return guesses


def sampled(model: Model, seeds: range, speculate: str) -> list[list[int]]:
    found: list[list[int]] = []
    for first in range(seeds.start, seeds.stop, AT_ONCE):
        streams = [
            model.stream(PROMPT, max_new_tokens=NUM_TOKENS, temperature=TEMPERATURE, seed=seed, speculate=speculate)
            for seed in range(first, min(first + AT_ONCE, seeds.stop))
        ]
        for stream in streams:
            "".join(stream)
            found.append(stream.result.token_ids)
    return found


def points(folder: Path, answers: Sequence[Sequence[int]], temperature: float) -> Tensor:
    """One for each token, uniform between 0 and 1 where they are sampled at that temperature."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    random = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    with torch.inference_mode():
        for answer in answers:
            ids = torch.tensor([*PROMPT, *answer])
            logits = model(ids[None]).logits[0, len(PROMPT) - 1 : -1].double()
            likely, order = (logits / temperature).softmax(-1).sort(-1, descending=True)
            place = (order == ids[len(PROMPT) :, None]).int().argmax(-1, keepdim=True)
            end = likely.cumsum(-1).gather(1, place)[:, 0]
            size = likely.gather(1, place)[:, 0]
            found.append(end - size * torch.rand(len(answer), generator=random, dtype=torch.float64))
    return torch.cat(found)


def chi_square(found: Tensor) -> float:
    counts = torch.histc(found, NUM_BINS, 0.0, 1.0)
    expected = len(found) / NUM_BINS
    return float(((counts - expected) ** 2 / expected).sum())


def test_ten_thousand_tokens_with_guesses_are_distributed_as_the_scores_say(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loaded(tiny, [3, 3]) as (_, model):
        model.eos_ids = ()
        successors = Successors(sampled(model, range(10_000, 10_040), "off"))
        monkeypatch.setattr(front, "Guesser", successors.guesser)
        answers = sampled(model, range(NUM_ANSWERS), "lookup")
    assert sum(map(len, answers)) == 10_000
    assert successors.num_right > 1000 and successors.num_guessed - successors.num_right > 1000
    assert chi_square(points(tiny, answers, TEMPERATURE)) < CRITICAL
    assert chi_square(points(tiny, answers, 1.3 * TEMPERATURE)) > CRITICAL, "it would be seen"
