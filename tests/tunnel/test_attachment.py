"""Questions and answers of one connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardnet.tunnel import frames
from shardnet.tunnel.attachment import Attachment
from shardnet.tunnel.frames import BadFrame, Kind
from shardnet.tunnel.limits import Limits
from shardnet.tunnel.liveness import Look


def test_one_answer_may_be_to_several_questions() -> None:
    attachment = Attachment(Limits(), now_s=0.0)
    assert attachment.answer() == b""
    for _ in range(3):
        attachment.question_came()
    assert attachment.answer() == frames.pack(Kind.PONG, number=3)
    assert attachment.answer() == b""


def test_what_was_not_asked_cannot_be_answered() -> None:
    attachment = Attachment(Limits(), now_s=0.0)
    for now_s in (1.0, 2.0, 3.0):
        attachment.ask(now_s)
    attachment.answer_came(2, 4.0)
    for number in (1, 4):
        with pytest.raises(BadFrame, match="and not 2 to 3"):
            attachment.answer_came(number, 5.0)


def test_who_was_suspended_asks_at_once_and_gives_nothing_up() -> None:
    attachment = Attachment(Limits(), now_s=0.0)
    assert attachment.look(1000.0, ask_after_s=1.0) is Look.ASK
    assert attachment.look(5000.0, ask_after_s=1.0) is Look.DOUBT
    attachment.heard()
    assert attachment.look(5000.5, ask_after_s=1.0) is Look.WAIT


def test_it_is_asked_once_however_often_that_is_due() -> None:
    attachment = Attachment(Limits(), now_s=0.0)
    assert attachment.ask_at_once(0.0) == frames.pack(Kind.PING)
    assert attachment.ask_at_once(0.1) == b""


def test_what_passed_before_it_was_asked_is_no_waiting_for_the_answer() -> None:
    """An idle connection that was asked as the network changed was given up half a second later, however slow it is."""
    limits = Limits()
    attachment = Attachment(limits, now_s=0.0)
    assert attachment.look(0.5, limits.idle_ask_after_s) is Look.WAIT
    attachment.ask_at_once(7.5)
    assert attachment.look(7.5 + limits.doubt_s, limits.idle_ask_after_s) is Look.DOUBT
    assert attachment.look(7.5 + limits.answer_s, limits.idle_ask_after_s) is Look.GIVE_UP


ACTS = st.lists(st.tuples(st.sampled_from(["look", "look", "ask", "heard"]), st.floats(0.0, 20.0), st.booleans()))


@given(ACTS, st.booleans())
def test_whatever_has_happened_who_answers_in_time_is_kept_and_who_is_silent_is_not(
    acts: list[tuple[str, float, bool]], is_used: bool
) -> None:
    limits = Limits()
    attachment = Attachment(limits, now_s=0.0)
    now_s, asked_s = 0.0, None
    for act, passed_s, is_used_then in acts:
        now_s += passed_s
        if act == "heard":
            attachment.heard()
            asked_s = None
        elif act == "ask":
            assert bool(attachment.ask_at_once(now_s)) == (asked_s is None)
            asked_s = now_s if asked_s is None else asked_s
        else:
            look = attachment.look(now_s, limits.ask_after_s if is_used_then else limits.idle_ask_after_s)
            if look is Look.ASK:
                assert asked_s is None
                asked_s = now_s
            elif look is Look.GIVE_UP:
                assert asked_s is not None and now_s - asked_s >= limits.answer_s - 1e-6
                attachment, asked_s = Attachment(limits, now_s), None
    ask_after_s = limits.ask_after_s if is_used else limits.idle_ask_after_s
    looks = []
    for _ in range(int((ask_after_s + limits.answer_s) / (ask_after_s / 2)) + 3):
        now_s += ask_after_s / 2
        looks.append(attachment.look(now_s, ask_after_s))
    assert Look.GIVE_UP in looks
