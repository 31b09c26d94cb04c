"""A cluster is found over real multicast, on the loopback of this host."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from shardnet.discovery.announcing import Announcer
from shardnet.discovery.asking import GROUP, look
from shardnet.discovery.choosing import gates_of_the_only, with_slot
from shardnet.discovery.datagrams import Announced
from shardnet.trust.addresses import Address

NEAR = "127.0.0.1"
HERE = Announced("a" * 32, frozenset({7}), (Address("10.9.8.7", 29500), Address(NEAR, 29500)))


@pytest.fixture
def announcers() -> Iterator[list[Announcer]]:
    made: list[Announcer] = []
    yield made
    for each in made:
        each.close()


def announce(what: Announced, announcers: list[Announcer]) -> Announcer:
    """As a host does that has one network, the loopback."""
    announcers.append(Announcer(interfaces=[NEAR]))
    announcers[-1].tell(what)
    return announcers[-1]


def found(slot: int, look_s: float = 20.0) -> tuple[Address, ...]:
    return gates_of_the_only(look([NEAR], lambda heard: bool(with_slot(heard, slot)), look_s=look_s), slot)


def test_what_is_announced_is_found_and_followed(announcers: list[Announcer]) -> None:
    """The address first from which the answer came: it leads there."""
    here = announce(HERE, announcers)
    announce(Announced("b" * 32, frozenset({8}), (Address(NEAR, 29501),)), announcers)
    assert found(7) == (Address(NEAR, 29500), Address("10.9.8.7", 29500))
    assert found(8) == (Address(NEAR, 29501),)
    here.tell(HERE._replace(slots=frozenset({9})))
    assert found(9) == (Address(NEAR, 29500), Address("10.9.8.7", 29500))


def test_a_process_with_many_open_files_finds_it_too(announcers: list[Announcer]) -> None:
    """A gate has as many as it has connections: with the 1025th, it never found its cluster again."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2048:
        pytest.skip("this process may not have so many")
    announce(HERE, announcers)
    with ExitStack() as ends:
        ends.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, limits[1]))
        for _ in range(1100):
            ends.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        assert found(7)


def test_nobody_is_waited_for_who_is_not_there() -> None:
    begin_s = time.monotonic()
    assert [each for each in look([NEAR, "192.0.2.77"], lambda heard: False, GROUP, 0.3) if each.cluster == "c"] == []
    assert time.monotonic() - begin_s >= 0.3
    assert look([], lambda heard: True) == [], "this host is in no network"
