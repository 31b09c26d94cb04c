"""A silent connection is asked, and given up where no answer comes."""

from __future__ import annotations

from shardnet.tunnel.liveness import Liveness, Look


def test_a_silent_connection_is_asked_once_doubted_and_given_up() -> None:
    liveness = Liveness(doubt_s=1.0, answer_s=2.0)
    looks = [liveness.look(0.5, ask_after_s=1.0) for _ in range(6)]
    assert looks == [Look.WAIT, Look.ASK, Look.WAIT, Look.DOUBT, Look.DOUBT, Look.GIVE_UP]


def test_any_sign_of_life_will_do() -> None:
    liveness = Liveness(doubt_s=1.0, answer_s=2.0)
    for _ in range(50):
        assert liveness.look(1.0, ask_after_s=1.0) is Look.ASK
        assert liveness.look(0.5, ask_after_s=1.0) is Look.WAIT
        liveness.heard()


def test_one_that_was_idle_is_asked_as_soon_as_it_is_used() -> None:
    liveness = Liveness(doubt_s=1.0, answer_s=2.0)
    assert liveness.look(5.0, ask_after_s=15.0) is Look.WAIT
    assert liveness.look(0.5, ask_after_s=1.0) is Look.ASK


def test_one_that_is_asked_before_it_is_silent_is_doubted_sooner() -> None:
    liveness = Liveness(doubt_s=1.0, answer_s=2.0)
    assert [liveness.ask(), liveness.ask()] == [Look.ASK, Look.WAIT]
    assert [liveness.look(0.5, ask_after_s=15.0) for _ in range(4)] == [Look.WAIT, Look.DOUBT, Look.DOUBT, Look.GIVE_UP]
