"""What guesses bring, and never take, in rings on paper: for texts that repeat and others, whatever laps take.

How long laps take, and how likely guesses are to be right, the guesser finds out as it goes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_ring import PaperDraft, PaperRing

from shardnet.speculation.guesser import Guesser
from shardnet.speculation.laps import Laps

NUM_PROMPT = 300
NUM_TOKENS = 500
Cost = Callable[[int], float]


def few_bits(seconds: float) -> Cost:
    """As products with 4-bit weights take."""
    rows, times = [1, 2, 4, 8, 16, 32], [1.0, 1.2, 1.7, 3.6, 6.0, 9.0]

    def cost(num_rows: int) -> float:
        at = max(bisect_left(rows, min(num_rows, 32)), 1)
        share = (min(num_rows, 32) - rows[at - 1]) / (rows[at] - rows[at - 1])
        return seconds * (times[at - 1] + share * (times[at] - times[at - 1]))

    return cost


def linear(seconds: float, more: float) -> Cost:
    return lambda num_rows: seconds * (1 + more * (num_rows - 1))


RINGS: dict[str, tuple[list[Cost], float]] = {
    "small, 5 ms": ([few_bits(0.003)] * 3, 0.0025),
    "large, 5 ms": ([few_bits(0.012)] * 3, 0.0025),
    "loopback": ([few_bits(0.003)] * 3, 0.0002),
    "uneven": ([few_bits(0.003), few_bits(0.012), few_bits(0.006)], 0.0025),
    "16 bits": ([linear(0.010, 0.02)] * 3, 0.0025),
    "rows are not free": ([linear(0.010, 1.0)] * 3, 0.0001),
    "far": ([few_bits(0.005)] * 2, 0.02),
    "one heavy": ([few_bits(0.001), few_bits(0.02)], 0.001),
}


def edited(random: Random, share: float) -> list[int]:
    """A text, and the same with some of it changed."""
    text = [random.randrange(5000) for _ in range(NUM_PROMPT)]
    answer: list[int] = []
    position = 0
    while len(answer) < NUM_TOKENS:
        is_changed = random.random() < share
        answer.append(random.randrange(5000) if is_changed else text[position % NUM_PROMPT])
        position += not is_changed or random.random() < 0.3
    return text + answer


def story(random: Random) -> list[int]:
    """Common words stand beside each other again and again, and go on otherwise."""
    return [int(random.paretovariate(0.5)) % 3000 for _ in range(NUM_PROMPT + NUM_TOKENS)]


def gain(text: list[int], ring: str, way: str) -> tuple[float, int]:
    """How many times as fast as without guesses; how many chunks were in flight at most."""
    costs, link_s = RINGS[ring]
    plain_s = PaperRing(text, NUM_PROMPT, costs, link_s, None, Laps()).run()
    laps = Laps()
    guessed = PaperRing(text, NUM_PROMPT, costs, link_s, Guesser(way, laps, len(text)), laps)
    return plain_s / guessed.run(), guessed.most_in_flight


@pytest.mark.parametrize("ring", RINGS)
def test_texts_that_repeat_come_sooner(ring: str) -> None:
    gains = [gain(edited(Random(seed), 0.03), ring, "auto") for seed in range(3)]
    are_rows_free = ring != "rows are not free"
    assert min(each for each, _ in gains) > (1.4 if are_rows_free else 0.95)
    assert sum(each for each, _ in gains) / 3 > (1.8 if are_rows_free else 0.95)
    assert max(num_chunks for _, num_chunks in gains) > 1


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(RINGS)), st.integers(0, 2**32), st.sampled_from([0.25, 0.6, None]))
def test_none_comes_later(ring: str, seed: int, share: float | None) -> None:
    random = Random(seed)
    text = story(random) if share is None else edited(random, share)
    assert gain(text, ring, "auto")[0] > 0.92


def test_none_comes_later_on_average() -> None:
    gains = [gain(story(Random(seed)), ring, "auto")[0] for ring in RINGS for seed in range(3)]
    assert sum(gains) / len(gains) > 0.985


def drafted_gain(ring: str, seconds: float, share: float, seed: int) -> float:
    """How many times as fast as without a draft that agrees on such a share of the tokens."""
    costs, link_s = RINGS[ring]
    random = Random(seed)
    text = [random.randrange(5000) for _ in range(NUM_PROMPT + NUM_TOKENS)]
    agrees = [random.random() < share for _ in text]
    draft, laps = PaperDraft(seconds, 0.0025, agrees.__getitem__), Laps()
    plain_s = PaperRing(text, NUM_PROMPT, costs, link_s, None, Laps()).run()
    guesser = Guesser("draft", laps, len(text))
    return plain_s / PaperRing(text, NUM_PROMPT, costs, link_s, guesser, laps, draft).run()


@pytest.mark.parametrize("ring", ["small, 5 ms", "large, 5 ms", "16 bits", "far"])
def test_answers_with_a_draft_come_sooner(ring: str) -> None:
    assert min(drafted_gain(ring, 0.003, 0.7, seed) for seed in range(3)) > 1.6
    assert min(drafted_gain(ring, 0.003, 0.9, seed) for seed in range(3)) > 2.2


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(RINGS)), st.sampled_from([0.003, 0.012, 0.05]), st.floats(0, 1), st.integers(0, 2**32))
def test_no_draft_makes_them_come_later(ring: str, seconds: float, share: float, seed: int) -> None:
    assert drafted_gain(ring, seconds, share, seed) > 0.92
