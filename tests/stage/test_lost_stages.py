"""Any stage of a ring is lost at any moment, in the midst of faults of the network, and another takes its place: every
session goes on with the very tokens that it has where nothing happens, greedy and sampled.

A schedule follows from its number: `schedule_of(17)` says what happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from bare_ring import TESTER, BareRing
from loss_schedules import NUM_APPLIED, REQUESTS, SPEED, play, schedule_of
from processes import wait_until

from shardnet.transport import InProcessNetwork
from shardnet.transport.messages import StageSpec

NUM_SCHEDULES = 40
NUM_GROUPS = 4
"""The schedules of a group go over one ring, one after the other."""


@pytest.fixture
def ring(specs: tuple[StageSpec, ...]) -> Iterator[BareRing]:
    with InProcessNetwork(speed=SPEED) as network, BareRing(network, specs) as ring:
        yield ring


@pytest.fixture(scope="module")
def expected(specs: tuple[StageSpec, ...]) -> list[list[int]]:
    with InProcessNetwork(speed=SPEED) as network, BareRing(network, specs) as ring:
        for request in REQUESTS:
            ring.start(request)
        return list(ring.answers().values())


@pytest.mark.parametrize("group", range(NUM_GROUPS))
def test_every_session_goes_on_with_its_own_tokens(ring: BareRing, expected: list[list[int]], group: int) -> None:
    for seed in range(group, NUM_SCHEDULES, NUM_GROUPS):
        schedule = schedule_of(seed)
        assert play(ring, schedule) == expected, schedule
        ring.end_sessions()
        assert [ring.host(index).report().kv_reserved_bytes for index in range(3)] == [0, 0, 0], schedule


def test_a_token_that_nobody_knows_any_more_is_sampled_once_more(ring: BareRing, expected: list[list[int]]) -> None:
    """The stage between has it already, and beyond. The new last stage samples behind each token all the same."""
    ring.network.drop("*", TESTER, endpoint="tokens", count=10**6)
    for request in REQUESTS:
        ring.start(request)
    wait_until(partial(ring.has_applied, 1, NUM_APPLIED - len(REQUESTS)), 20)
    for stage in (0, 2):
        ring.lose(stage)
    assert ring.num_told() == 0
    ring.network.restore()
    ring.recover()
    assert list(ring.answers().values()) == expected
