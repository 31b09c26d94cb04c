"""Guesses by look-up are what stood last behind the longest end that was there before, as long as that is right."""

from __future__ import annotations

import tracemalloc
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardnet.speculation.lookup import LONGEST, MOST_PLACES, SHORTEST, LookUp


def index_of(ids: list[int], most_tokens: int | None = None) -> LookUp:
    index = LookUp(len(ids) if most_tokens is None else most_tokens)
    for each in ids:
        index.add(each)
    return index


def searched(ids: list[int]) -> tuple[int, int]:
    """Distance and strength, by looking through everything, token after token."""
    distance = strength = 0
    for end in range(1, len(ids) + 1):
        if distance and ids[end - 1] == ids[end - 1 - distance]:
            strength += 1
            continue
        distance = strength = 0
        for size in range(LONGEST, SHORTEST - 1, -1):
            places = [at for at in range(size, end) if ids[at - size : at] == ids[max(end - size, 0) : end]]
            if places:
                distance, strength = end - places[-1], size
                break
    return distance, strength


@given(st.lists(st.integers(0, 2), max_size=MOST_PLACES), st.integers(0, 200))
def test_it_finds_what_a_search_finds(ids: list[int], most_tokens: int) -> None:
    index = index_of(ids, most_tokens)
    assert (index.distance, index.strength) == searched(ids)
    assert len(index) == len(ids)


def test_a_repeated_end_goes_on_repeating() -> None:
    index = index_of([1, 2, 3, 1, 2])
    assert (index.distance, index.strength) == (3, 2)
    index.add(3)
    assert (index.distance, index.strength) == (3, 3)


def test_another_token_ends_the_run() -> None:
    index = index_of([1, 2, 3, 4, 8, 9, 5, 1, 2])
    index.add(8)
    assert index.distance == 0
    index.add(9)
    assert (index.distance, index.strength) == (5, 2)


def test_nothing_is_said_behind_what_was_never_there() -> None:
    assert index_of([1, 2, 3, 4]).distance == 0
    assert LookUp(5).distance == 0


@pytest.mark.parametrize("num_ids", [100, 2**31 - 1])
def test_it_finds_what_a_search_finds_in_a_long_text(num_ids: int) -> None:
    random, text = Random(0), list[int]()
    while len(text) < 600:
        begin = random.randrange(len(text) + 1)
        text += text[begin : begin + random.randrange(12)] + [random.randrange(num_ids) for _ in range(3)]
    index = index_of(text)
    assert (index.distance, index.strength) == searched(text)


def test_it_takes_few_bytes_a_token() -> None:
    """It stands beside what is counted of memory: 336 bytes of dicts and tuples were too many for that."""
    num_tokens, random = 2**14, Random(0)
    ids = [random.randrange(50_000) for _ in range(num_tokens)]
    tracemalloc.start()
    try:
        index = index_of(ids)
        assert tracemalloc.get_traced_memory()[0] < 16 * num_tokens
    finally:
        tracemalloc.stop()
    assert len(index) == num_tokens


def test_a_pair_that_is_everywhere_is_looked_for_only_so_far() -> None:
    often = [each for number in range(MOST_PLACES) for each in (1, 2, 1000 + number)]
    text = [7, 1, 2, *often, 7, 1, 9, 7, 1, 2]
    assert searched(text)[1] == SHORTEST + 1
    assert index_of(text).strength == SHORTEST
