"""Guesses by look-up are what stood last behind the longest end that was there before, as long as that is right."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardnet.speculation.lookup import LONGEST, SHORTEST, LookUp


def index_of(ids: list[int]) -> LookUp:
    index = LookUp()
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


@given(st.lists(st.integers(0, 2), max_size=40))
def test_it_finds_what_a_search_finds(ids: list[int]) -> None:
    index = index_of(ids)
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
    assert LookUp().distance == 0
