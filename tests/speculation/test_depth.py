"""A draft goes the further ahead the more it agrees, and rests where it never does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardnet.speculation.depth import LEAST_AGREEMENT, LEAST_CHANCE, MOST, MOST_RESTS, Depth


def told(judged: list[bool]) -> Depth:
    depth = Depth()
    for num_known, is_right in enumerate(judged):
        depth.judge(is_right, num_known)
    return depth


def test_it_goes_on_where_all_agree_and_not_far_where_few_do() -> None:
    assert told([True] * 100).most(100) == MOST
    assert 3 <= Depth().most(0) <= 6
    half = told([bool(number % 2) for number in range(101)])
    assert 1 <= half.most(200) <= 3


def test_it_rests_where_none_agrees_and_tries_again() -> None:
    depth = told([False] * 200)
    assert depth.most(200) == 0
    assert depth.most(200 + MOST_RESTS + 1) == 1
    depth.judge(True, 300)
    assert depth.most(301) == 1 and depth.agreement < LEAST_AGREEMENT


@given(st.lists(st.booleans()))
def test_no_guess_is_less_likely_than_it_is_worth(judged: list[bool]) -> None:
    depth = told(judged)
    most = depth.most(10**6)
    assert 1 <= most <= MOST
    assert most == 1 or depth.agreement**most >= LEAST_CHANCE - 1e-9
