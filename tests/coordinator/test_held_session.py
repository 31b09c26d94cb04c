"""What a source is told of its session, whatever it has of it and from wherever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardnet.coordinator.held_session import HeldSession
from shardnet.errors import BadRequest, ClusterError
from shardnet.session.session import Session, computed_anew
from shardnet.transport.listener_messages import digest
from shardnet.transport.session_messages import SampledToken, SamplingOptions, SessionSpec
from shardnet.transport.source_messages import SessionRequest

ids = st.lists(st.integers(0, 2**17), max_size=8)
EOS = 2**18
MOST = 12


class Nobody:
    """Who opened the session of a test; see `session.Owner`."""

    def close_session(self, session: int) -> None:
        pass

    close_session_later = close_session


def begun() -> tuple[HeldSession, Session]:
    held = HeldSession(None, 0.0, 60.0)
    spec = SessionSpec(1, 40, 3, 3, MOST, (EOS,), SamplingOptions())
    session = Session(Nobody(), spec, (1, 2, 3))
    held.begin(session)
    return held, session


def token(index: int, token_id: int) -> SampledToken:
    return SampledToken(1, index, token_id, "")


@given(
    told=ids, more=ids.filter(bool), num_known=st.integers(0, 16), num_ahead=st.integers(0, 16), is_other=st.booleans()
)
def test_a_source_is_told_what_goes_on_behind_what_it_has_and_nothing_else(
    told: list[int], more: list[int], num_known: int, num_ahead: int, is_other: bool
) -> None:
    """Once, an answer that was computed anew in half precision could go on behind other tokens, and nobody knew."""
    held, whole = HeldSession(None, 0.0, 60.0), told + more
    known = whole[:num_known]
    if known and is_other:
        known[-1] += 1
    for index, token_id in enumerate(told):
        held.tell(token(index, token_id))
    ahead = known[max(0, len(known) - num_ahead) :]
    answer = held.follow(len(known), digest(known), tuple(ahead), 0.0, 10.0)
    if len(known) - len(ahead) > len(told):
        assert answer.result() == ((), False, len(told)), "it is to say more"
        return
    if len(known) > len(told):
        assert answer.result() == ((), False, len(known)), "it is news here"
        answer = held.follow(len(known), digest(known), (), 0.0, 10.0)
    for index, token_id in enumerate(more, start=len(told)):
        held.tell(token(index, token_id))
    if known != whole[: len(known)]:
        assert held.take_parting() and not held.take_parting()
        assert not answer.done(), "it hears of it when it is kept under a number"
        held.end(None)
        assert not answer.done()
        held.end(computed_anew())
        with pytest.raises(ClusterError, match="goes on otherwise than it began"):
            answer.result()
        return
    assert not held.take_parting()
    if known == whole:
        assert not answer.done()
    else:
        news = [each.token_id for each in answer.result().tokens]
        assert news and news == whole[len(known) :][: len(news)]


@given(told=ids, ahead=ids.filter(bool), has_begun=st.booleans())
def test_what_a_source_has_heard_straight_is_not_sampled_again(
    told: list[int], ahead: list[int], has_begun: bool
) -> None:
    """The stage that had sampled it died before it told the coordinator, or this one has come after another one."""
    held, session = begun()
    if not has_begun:
        held = HeldSession(None, 0.0, 60.0)
    for index, token_id in enumerate(told):
        session.tell(session.token(index, token_id))
        held.tell(session.token(index, token_id))
    known = [*told, *ahead]
    held.follow(len(known), digest(known), tuple(ahead), 0.0, 10.0)
    held.begin(session)
    assert list(session.history[3:]) == known[:MOST]
    assert held.ahead == tuple(known)
    more = [*known, 4]
    assert held.follow(len(more), digest(more), (4,), 0.0, 10.0).result() == ((), False, len(more))
    assert not held.take_parting()
    assert list(session.history[3:]) == more[:MOST]


def test_a_source_has_no_tokens_behind_the_last_one() -> None:
    held, session = begun()
    known = [5, EOS, 6, 7]
    held.follow(4, digest(known), tuple(known), 0.0, 10.0)
    assert [each.token_id for each in session] == [5, EOS]
    with pytest.raises(BadRequest, match="cannot have 3"):
        held.follow(2, 0, (1, 2, 3), 0.0, 10.0)


def test_what_its_source_has_heard_is_kept_with_an_answer_that_has_broken_off() -> None:
    """It was told just when the model had ended, and nobody took tokens any more."""
    held, session = begun()
    held.tell(session.token(0, 5))
    session.tell(ClusterError("too many devices are lost."))
    held.follow(3, digest([5, 6, 7]), (6, 7), 0.0, 10.0)
    assert [each.token_id for each in held.answer] == [5]
    assert [each.token_id for each in held.known] == [5, 6, 7]
    held.tell(session.token(1, 8))
    assert [each.token_id for each in held.known] == [5, 8], "they have parted"


def test_a_source_has_no_more_tokens_than_it_has_asked_for() -> None:
    asked = SessionRequest(1, "@source", 1, (1, 2, 3), 4, SamplingOptions())
    held = HeldSession(asked, 0.0, 60.0)
    assert not held.follow(0, 0, (), 0.0, 10.0).done()
    with pytest.raises(BadRequest, match="cannot have 1000"):
        held.follow(1000, 0, (5,) * 1000, 0.0, 10.0)


def test_another_token_in_the_place_of_one_that_was_told_ends_the_answer() -> None:
    """What its source has told was sampled by a stage that is gone; the one that took over has sampled another."""
    held, session = begun()
    held.follow(1, digest([5]), (5,), 0.0, 10.0)
    session.tell(session.token(0, 6))
    tokens = iter(session)
    assert next(tokens).token_id == 5
    with pytest.raises(ClusterError, match="goes on otherwise than it began"):
        next(tokens)
