"""Addresses of a gate take turns; the one that was reached last is always tried."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardnet.gate.rota import MOST_ONCE, Rota
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


def test_what_one_says_does_not_take_the_turn_of_what_another_said_before() -> None:
    """Whoever spoke last, right or wrong, was the only one who was believed."""
    rota = Rota([ONE])
    rota.note(ONE)
    rota.try_once([TWO])
    rota.try_once([THREE, ONE])
    assert [rota.next() for _ in range(3)] == [(ONE, THREE), (ONE, TWO), (ONE,)]


ADDRESSES = st.lists(st.integers(1, 9).map(lambda number: Address(f"192.0.2.{number}", 29500)), max_size=7, unique=True)
ACTS = st.tuples(st.sampled_from(["try_once", "know", "note"]), ADDRESSES)


@given(ADDRESSES, st.lists(ACTS, max_size=12))
def test_whatever_is_heard_every_address_that_is_known_has_its_turn(
    known: list[Address], acts: list[tuple[str, list[Address]]]
) -> None:
    rota, said, expected = Rota(known), set[Address](), set(known)
    for act, addresses in acts:
        if act == "note":
            for address in addresses[:1]:
                expected |= {address} | ({rota.reached} if rota.reached else set())
                rota.note(address)
        elif act == "know":
            expected = set(addresses)
            rota.know(addresses)
        else:
            said |= set(addresses[:MOST_ONCE])
            rota.try_once(addresses)
        next_ones = rota.next()
        assert len(next_ones) <= 2 and len(set(next_ones)) == len(next_ones)
        assert rota.reached is None or next_ones[0] == rota.reached
        assert set(next_ones) <= expected | said
    turns = [rota.next() for _ in range(4 * MOST_ONCE + len(expected) + 1)]
    assert expected <= {address for turn in turns for address in turn}
