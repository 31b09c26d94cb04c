"""Offers find the first stage wherever it is, and what becomes of one answer stops those of no other."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from processes import wait_until

from shardnet.draft import offering
from shardnet.draft.offering import FirstStage
from shardnet.errors import ClusterError, ShardnetError
from shardnet.transport import InProcessNetwork
from shardnet.transport.offer_messages import Offer


class Place:
    """Two devices that take offers, and who says on which of them answers begin."""

    def __init__(self, network: InProcessNetwork) -> None:
        self.network = network
        self.begins_at = "a"
        self.keys = {"a": {1, 2}, "b": set[int]()}
        """The sessions that begin at each."""
        self.num_asked = 0
        for name in "ab":
            network.join(name).expose("offer", lambda offer, name=name: offer.key in self.keys[name])
        self.first_stage = FirstStage(network.join("@source"), self.where)

    def where(self) -> str:
        self.num_asked += 1
        if not self.begins_at:
            raise ClusterError("nobody knows.")
        return self.begins_at

    def tell(self, key: int) -> Future[Any] | None:
        return self.first_stage.tell(Offer(key, 0, 0, (5,)))

    def is_taken(self, key: int) -> bool:
        told = self.tell(key)
        try:
            return told is not None and bool(told.result(5))
        except ShardnetError:  # lost on the way
            return False


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(offering, "LOOK_EVERY_S", 0.0)
    with InProcessNetwork() as network:
        place = Place(network)
        wait_until(lambda: place.is_taken(1))
        yield place


def test_an_answer_that_has_ended_stops_the_offers_of_no_other(place: Place) -> None:
    """Whoever offered for it was told that it does not begin there, and offers of all answers rested for a second."""
    place.keys["a"].remove(2)
    for _ in range(5):
        assert not place.is_taken(2)
        assert place.is_taken(1)


def test_where_nobody_knows_better_offers_go_where_they_went(place: Place) -> None:
    """The coordinator is away, say: stages go on without it."""
    place.begins_at = ""
    assert not place.is_taken(3)
    wait_until(lambda: place.num_asked > 1)
    assert all(place.is_taken(1) for _ in range(5))


def test_they_follow_the_first_stage(place: Place) -> None:
    place.begins_at, place.keys = "b", {"a": set(), "b": {1, 2}}
    wait_until(lambda: place.is_taken(1))
    assert place.is_taken(2)


def test_they_leave_a_device_that_is_lost(place: Place) -> None:
    place.begins_at, place.keys["b"] = "b", {1}
    place.network.kill("a")
    wait_until(lambda: place.is_taken(1))


def test_nobody_is_asked_all_the_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offering, "LOOK_EVERY_S", 1000.0)
    before = place.num_asked
    for _ in range(20):
        assert not place.is_taken(3)
    assert place.num_asked <= before + 1
