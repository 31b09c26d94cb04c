"""Who comes to a gate gets its turn: strangers so many a second, whatever they do, and members at once."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.gate.turns import (
    MOST_KNOWN,
    MOST_WAITING,
    MOST_WAITING_OF_ONE,
    WAIT_S,
    Paces,
    Turns,
    neighbourhood,
    place_of,
)
from shardnet.process.tokens import Pace

PACES = Paces()
PLACES = [*(f"10.0.0.{number}" for number in range(1, 60)), *(f"2001:db8::{number:x}" for number in range(1, 9))]
MEMBER = "2001:db8::abcd"
"""In the neighbourhood of some of these."""
SHAKE_S = 0.005

Arrival = tuple[float, str]
floods = st.lists(st.tuples(st.floats(0, 0.03), st.sampled_from(PLACES)), max_size=400)
gushes = st.lists(st.tuples(st.sampled_from([0.0, 0.001]), st.sampled_from(PLACES[:3])), max_size=400)


def arrivals_in(flood: list[Arrival]) -> list[Arrival]:
    """At which time, from pauses between them."""
    times = itertools.accumulate(pause for pause, _ in flood)
    return [(at_s, place) for at_s, (_, place) in zip(times, flood, strict=True)]


class Played:
    """What became of those who came. Each is a number."""

    def __init__(self) -> None:
        self.turns: Turns[int] = Turns()
        self.now_s = 0.0
        self.came: dict[int, Arrival] = {}
        self.begun: dict[int, float] = {}
        self.sent_away: dict[int, float] = {}
        self._proofs: list[tuple[float, str, str]] = []

    def play(self, arrivals: list[Arrival], host_of: Callable[[str], str | None] = lambda place: None) -> Played:
        """Until nobody waits. Those with a host show its certificate a moment after they were begun with."""
        left = sorted(arrivals, reverse=True)
        while True:
            times = [left[-1][0]] if left else []
            times += [at_s for at_s, _, _ in self._proofs[:1]]
            again_s = self.turns.again_s(self.now_s)
            times += [] if again_s is None else [again_s]
            if not times:
                return self
            assert again_s is None or again_s > self.now_s, "nobody looks again and again for nothing"
            self.now_s = max(self.now_s, min(times))
            while self._proofs and self._proofs[0][0] <= self.now_s:
                _, place, host = self._proofs.pop(0)
                self.turns.prove(place, host, self.now_s)
            while left and left[-1][0] <= self.now_s:
                self._come(left.pop())
            self._look(host_of)

    def _come(self, arrival: Arrival) -> None:
        number = len(self.came)
        self.came[number] = arrival
        self.turns.come(number, arrival[1], self.now_s)

    def _look(self, host_of: Callable[[str], str | None]) -> None:
        begun, sent_away = self.turns.look(self.now_s)
        for one in begun:
            assert one not in self.begun
            self.begun[one] = self.now_s
            host = host_of(self.came[one][1])
            if host is not None:
                self._proofs.append((self.now_s + SHAKE_S, self.came[one][1], host))
        for one in sent_away:
            assert one not in self.begun and one not in self.sent_away
            self.sent_away[one] = self.now_s

    def waited_s(self, place: str) -> list[float]:
        return [at_s - self.came[one][0] for one, at_s in self.begun.items() if self.came[one][1] == place]


def is_within(pace: Pace, times: list[float]) -> bool:
    return all(
        count <= pace.at_once + pace.per_s * (last_s - first_s) + 1e-6
        for first, first_s in enumerate(times)
        for count, last_s in enumerate(times[first:], start=1)
    )


@settings(max_examples=60, deadline=None)
@given(st.one_of(floods, gushes))
def test_strangers_are_begun_with_at_a_bounded_pace_and_none_is_forgotten(flood: list[Arrival]) -> None:
    played = Played().play(arrivals_in(flood))
    by_crowd = defaultdict(list)
    for one, at_s in played.begun.items():
        by_crowd[neighbourhood(played.came[one][1])].append(at_s)
    assert is_within(PACES.of_strangers, [*played.begun.values()])
    assert all(is_within(PACES.of_one, times) for times in by_crowd.values())
    assert played.begun.keys() | played.sent_away.keys() == played.came.keys()
    for one, at_s in (*played.begun.items(), *played.sent_away.items()):
        assert at_s <= played.came[one][0] + WAIT_S + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.one_of(floods, gushes), st.lists(st.floats(0, 8), min_size=1, max_size=8))
def test_no_flood_from_elsewhere_keeps_a_member_waiting(flood: list[Arrival], times: list[float]) -> None:
    played = Played()
    played.turns.prove(MEMBER, "phone", 0.0)
    played.play([*arrivals_in(flood), *((at_s, MEMBER) for at_s in times)])
    assert played.waited_s(MEMBER) == [0.0] * len(times)


@given(st.integers(1, 60), st.floats(0.5, 3))
@settings(max_examples=30, deadline=None)
def test_who_comes_alone_gets_its_turn_among_crowds(num_crowds: int, at_s: float) -> None:
    """Nothing is known of it: it joins, say."""
    crowds = [f"10.0.1.{number}" for number in range(num_crowds)]
    flood = [(each / 500, crowds[each % num_crowds]) for each in range(2000)]
    (waited_s,) = Played().play([*flood, (at_s, "10.0.2.1")]).waited_s("10.0.2.1")
    assert waited_s <= (num_crowds + 1) / PACES.of_strangers.per_s + 1e-6


@pytest.mark.parametrize("is_known", [True, False])
def test_members_behind_one_address_come_back_all_at_once(is_known: bool) -> None:
    """After a cut, say. What each takes is given back."""
    count = MOST_WAITING_OF_ONE
    played = Played()
    if is_known:
        played.turns.prove("10.0.3.1", "laptop", 0.0)
    hosts = (f"phone-{number}" for number in itertools.count())
    played.play([(1.0, "10.0.3.1")] * count, host_of=lambda place: next(hosts))
    assert len(played.begun) == count
    assert max(played.waited_s("10.0.3.1")) < 2 * SHAKE_S * count / PACES.of_one.at_once


def test_a_member_among_strangers_at_its_own_address_gets_its_share() -> None:
    flood = [(each / 100, "10.0.3.1") for each in range(3000)]
    played = Played()
    played.turns.prove("10.0.3.1", "phone", 0.0)
    played.play(flood)
    assert len(played.begun) > 0.25 * len(flood)


def test_a_stolen_certificate_makes_no_more_of_it() -> None:
    flood = [(each / 300, "10.0.3.1") for each in range(3000)]
    played = Played().play(flood, host_of=lambda place: "stolen")
    of_one, of_member = PACES.of_one, PACES.of_member
    both = Pace(of_one.per_s + of_member.per_s, of_one.at_once + of_member.at_once)
    assert is_within(both, [*played.begun.values()])


def test_what_is_kept_is_bounded() -> None:
    played = Played()
    played.play([(each / 5000, f"10.1.{each // 250}.{each % 250}") for each in range(20_000)])
    assert len(played.turns._of_one) < 600
    for number in range(2 * MOST_KNOWN):
        played.turns.prove(f"10.2.{number // 250}.{number % 250}", "phone", played.now_s)
    assert len(played.turns._known) == MOST_KNOWN
    assert next(iter(played.turns._known)) == "10.2.1.6"


actions = st.one_of(
    st.tuples(st.sampled_from(["come", "prove"]), st.sampled_from(PLACES[55:])),
    st.tuples(st.just("look"), st.floats(0, 1)),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(actions, max_size=200))
def test_nobody_is_lost_where_addresses_become_known_and_are_forgotten(done: list[tuple[str, object]]) -> None:
    turns: Turns[int] = Turns(Paces(of_one=Pace(1.0, 2), of_strangers=Pace(2.0, 2)))
    now_s, came, gone = 0.0, 0, []
    with mock.patch("shardnet.gate.turns.MOST_KNOWN", 2), mock.patch("shardnet.gate.turns.MOST_WAITING", 6):
        for kind, what in done:
            if kind == "come":
                turns.come(came, str(what), now_s)
                came += 1
            elif kind == "prove":
                turns.prove(str(what), "phone", now_s)
            else:
                assert isinstance(what, float)
                now_s += what
                gone += itertools.chain(*turns.look(now_s))
        gone += itertools.chain(*turns.look(now_s), *turns.look(now_s + WAIT_S))
    assert sorted(gone) == list(range(came)) and turns.waiting == ()
    assert turns._crowds == turns._known_crowds == {} and turns.again_s(now_s) is None


def test_of_too_many_the_last_of_the_largest_crowd_is_sent_away() -> None:
    turns: Turns[str] = Turns()
    for place, count in (("10.0.0.1", 200), ("10.0.0.2", 200), ("10.0.0.3", 30)):
        for number in range(count):
            turns.come(f"{place} {number}", place, 0.0)
    assert len(turns.waiting) == MOST_WAITING
    assert sum(each.startswith("10.0.0.3 ") for each in turns.waiting) == 30


@pytest.mark.parametrize(
    "address, crowd",
    [
        (("10.0.0.7", 4000), "10.0.0.7"),
        (("2001:db8:0:1:2::3", 4000, 0, 0), "2001:db8:0:1::/64"),
        (("fe80::1%wlan0", 4000, 0, 3), "fe80::/64"),
        (("::ffff:10.0.0.7", 4000, 0, 0), "10.0.0.7"),
        ("", "?"),
    ],
)
def test_whose_neighbour_somebody_is(address: object, crowd: str) -> None:
    """All IPv4 addresses were once one neighbourhood to a gate that listens at [::]."""
    assert neighbourhood(place_of(address)) == crowd
