"""An answer that comes in two ways: each token once, in its place, and never one of another answer."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from shardnet.source.heard import Heard
from shardnet.transport.listener_messages import StraightToken, digest
from shardnet.transport.session_messages import SampledToken, SamplingOptions, SessionSpec

EOS = 9
MOST = 10
answers = st.lists(st.integers(0, 8), min_size=1, max_size=MOST)


def heard() -> Heard:
    return Heard(SessionSpec(7, 40, 3, 3, MOST, (EOS,), SamplingOptions()))


def straight(answer: list[int]) -> list[StraightToken]:
    return [StraightToken(1, index, token, digest(answer[:index])) for index, token in enumerate(answer)]


def ids(state: Heard) -> list[int]:
    return [token.token_id for token in state.tokens]


def ask(state: Heard, known: list[int]) -> bool:
    """The coordinator, which knows so much, is asked; whether it knows another answer."""
    have, known_digest, ahead = state.position
    assert have == len(state.tokens) and have - len(ahead) <= have
    if digest(known[:have]) != known_digest and have <= len(known):
        return True
    tokens = [SampledToken(7, index, token, "") for index, token in enumerate(known)][have:]
    return not state.told(have, tokens, len(known))


@given(answer=answers, seed=st.integers(0, 2**32), lost=st.floats(0, 1))
def test_in_any_order_with_losses_and_duplicates_it_is_the_answer(answer: list[int], seed: int, lost: float) -> None:
    chance, state = random.Random(seed), heard()
    ways = [token for token in straight(answer) * 2 if chance.random() >= lost]
    chance.shuffle(ways)
    known = 0
    for token in ways:
        state.straight(token)
        assert ids(state) == answer[: len(state.tokens)]
        if chance.random() < 0.5:
            known = chance.randint(known, len(answer))
            assert not ask(state, answer[:known])
            assert len(state.tokens) >= known and state.num_ahead == len(state.tokens) - known
            assert state.position.ahead == tuple(answer[known : len(state.tokens)])
    assert not ask(state, answer)
    assert ids(state) == answer and state.num_ahead == 0
    assert state.is_whole == (len(answer) == MOST)


@given(first=answers, second=answers, num_same=st.integers(0, MOST), seed=st.integers(0, 2**32))
def test_two_answers_are_never_mixed(first: list[int], second: list[int], num_same: int, seed: int) -> None:
    """A token was sampled again after a loss, in half precision: what comes behind the one is not for the other."""
    second = first[:num_same] + second[: MOST - num_same]
    chance, state = random.Random(seed), heard()
    ways = straight(first) + straight(second)
    chance.shuffle(ways)
    for token in ways:
        state.straight(token)
        assert ids(state) in (first[: len(state.tokens)], second[: len(state.tokens)])
    has_parted = ask(state, second)
    assert has_parted == (ids(state) != second[: len(state.tokens)]) or len(state.tokens) > len(second)
    if not has_parted and len(state.tokens) <= len(second):
        assert ids(state) == second[: len(state.tokens)]


def test_what_was_told_stays_and_nothing_comes_behind_the_last_token() -> None:
    state = heard()
    ask(state, [1, 2])
    for token in straight([1, 3, 4]):
        assert not state.straight(token)
    assert ids(state) == [1, 2]
    assert state.straight(straight([1, 2, EOS])[2]) and state.is_whole
    assert not state.straight(StraightToken(1, 3, 5, digest([1, 2, EOS])))
    assert state.told(2, [SampledToken(7, 2, EOS, ""), SampledToken(7, 3, 5, "")], 4)
    assert ids(state) == [1, 2, EOS]
    assert [token.finish_reason for token in state.tokens] == ["", "", "eos"]


def test_nothing_beyond_what_was_asked_for_is_kept() -> None:
    state = heard()
    for index in itertools.chain(range(1, 1000), (-1, 2**60, -(2**60))):
        assert not state.straight(StraightToken(1, index, 5, 0))
    assert len(state._beyond) == MOST - 1


def test_a_coordinator_that_knows_less_than_the_one_before_is_told_all() -> None:
    state = heard()
    ask(state, [1, 2, 3])
    state.straight(straight([1, 2, 3, 4])[3])
    assert state.position.ahead == (4,)
    state.told(4, (), 1)
    assert state.position == (4, digest([1, 2, 3, 4]), (2, 3, 4))


def test_an_answer_that_is_told_otherwise_is_not_taken() -> None:
    state = heard()
    for token in straight([1, 2, 3]):
        state.straight(token)
    assert not state.told(1, [SampledToken(7, 1, 2, ""), SampledToken(7, 2, 4, ""), SampledToken(7, 3, 5, "")], 4)
    assert ids(state) == [1, 2, 3]
