"""Guesses by look-up are what stood last behind the longest end that was there before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardnet.speculation.lookup import LONGEST, SHORTEST, LookUp


def index_of(ids: list[int]) -> LookUp:
    index = LookUp()
    for each in ids:
        index.add(each)
    return index


def searched(ids: list[int]) -> tuple[list[int], int]:
    """All that follows, by looking through everything."""
    for size in range(LONGEST, SHORTEST - 1, -1):
        places = [at for at in range(size, len(ids)) if ids[at - size : at] == ids[-size:]]
        if places:
            return ids[places[-1] :], size
    return [], 0


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 6))
def test_it_finds_what_a_search_finds(ids: list[int], most: int) -> None:
    guesses, size = index_of(ids).guess(most)
    following, searched_size = searched(ids)
    assert size == searched_size
    assert guesses[: len(following)] == following[:most]
    assert len(guesses) == (most if size else 0)


def test_a_repeated_end_goes_on_repeating() -> None:
    assert index_of([1, 2, 3, 1, 2]).guess(7) == ([3, 1, 2, 3, 1, 2, 3], 2)


def test_nothing_is_guessed_behind_what_was_never_there() -> None:
    assert index_of([1, 2, 3, 4]).guess(4) == ([], 0)
    assert LookUp().guess(4) == ([], 0)
