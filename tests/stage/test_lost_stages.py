"""Any stage of a ring is lost at any moment, in the midst of faults of the network, and another takes its place: every
session goes on with the very tokens that it has where nothing happens, greedy and sampled.

A schedule follows from its number: `schedule_of(17)` says what happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from bare_ring import TESTER, BareRing
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_schedules import NUM_APPLIED, REQUESTS, SPEED, Loss, Schedule, play, schedule_of
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


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Prompts in chunks of any sizes, and losses at any moment; no faults of the network that a loss does not bring."""
    num_losses = draw(st.integers(0, 2))
    stages = st.sets(st.integers(0, 2), min_size=1).map(sorted).map(tuple)
    losses = [Loss(draw(st.integers(0, NUM_APPLIED)), draw(stages), None) for _ in range(num_losses)]
    cuts = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=5)))
    kinds = st.tuples(st.sampled_from(("drop", "drop answers", "duplicate")), st.integers(1, 3), st.integers(0, 25))
    faults = tuple(draw(st.lists(kinds, max_size=4)))
    return Schedule(draw(st.integers(0, 99)), tuple(losses), draw(st.sampled_from((0.0, 0.2, 1.0))), faults, cuts)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(schedules())
def test_prompts_may_be_cut_anywhere(
    specs: tuple[StageSpec, ...], expected: list[list[int]], schedule: Schedule
) -> None:
    with InProcessNetwork(speed=SPEED) as network, BareRing(network, specs) as ring:
        assert play(ring, schedule) == expected


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
