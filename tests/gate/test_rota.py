"""Addresses of a gate take turns; the one that was reached last is always tried."""

from __future__ import annotations

from shardnet.gate.rota import Rota
from shardnet.trust.addresses import Address

ONE, TWO, THREE = (Address(f"192.0.2.{number}", 29500) for number in (1, 2, 3))


def test_all_take_turns_and_the_one_that_was_reached_is_always_tried() -> None:
    rota = Rota([ONE, TWO, THREE])
    assert [rota.next() for _ in range(4)] == [(ONE,), (TWO,), (THREE,), (ONE,)]
    rota.note(TWO)
    assert [rota.next() for _ in range(3)] == [(TWO, THREE), (TWO, ONE), (TWO, THREE)]
    rota.note(ONE)
    assert {rota.next() for _ in range(2)} == {(ONE, THREE), (ONE, TWO)}


def test_what_is_known_anew_comes_first_beside_the_one_that_was_reached() -> None:
    rota = Rota([ONE])
    rota.note(ONE)
    rota.know([THREE, TWO, ONE])
    assert [rota.next() for _ in range(2)] == [(ONE, THREE), (ONE, TWO)]
    rota.know([TWO])
    assert rota.next() == (TWO,) and rota.reached is None


def test_nothing_is_tried_where_nothing_is_known() -> None:
    assert Rota([]).next() == ()


def test_where_it_may_be_is_tried_once_and_stays_where_it_was_reached() -> None:
    rota = Rota([ONE])
    rota.note(ONE)
    rota.try_once([TWO, THREE])
    assert [rota.next() for _ in range(3)] == [(ONE, TWO), (ONE, THREE), (ONE,)]
    rota.try_once([THREE])
    rota.note(THREE)
    assert rota.reached == THREE
    rota.next()
    assert rota.next() == (THREE, ONE)
