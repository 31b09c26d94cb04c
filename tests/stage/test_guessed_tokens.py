"""Sessions whose tokens are guessed have the very tokens that they have without: right and wrong guesses, greedy and
sampled, whatever is lost and whoever takes over, at any moment.
"""

from __future__ import annotations

import follow_schedules
import loss_schedules
import pytest
from bare_ring import BareRing
from guesses import Oracle
from loss_schedules import REQUESTS, SPEED, answers

from shardnet.stage import front
from shardnet.transport import InProcessNetwork
from shardnet.transport.messages import StageSpec

GUESSED = [each._replace(sampling=each.sampling._replace(speculate="lookup")) for each in REQUESTS]
NUM_LOSSES = 24
NUM_FOLLOWED = 24
NUM_GROUPS = 3


@pytest.fixture(scope="module")
def expected(specs: tuple[StageSpec, ...]) -> list[list[int]]:
    return answers(specs, REQUESTS)


@pytest.fixture
def oracle(expected: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> Oracle:
    oracle = Oracle([request.prompt + ids for request, ids in zip(REQUESTS, expected, strict=True)], 0.7)
    monkeypatch.setattr(front, "Guesser", oracle.guesser)
    return oracle


def test_tokens_are_those_without_guesses(
    specs: tuple[StageSpec, ...], expected: list[list[int]], oracle: Oracle
) -> None:
    for _ in range(5):
        assert answers(specs, GUESSED) == expected
    assert oracle.num_right > 20 and oracle.num_guessed - oracle.num_right > 20 and oracle.num_further > 3


@pytest.mark.usefixtures("oracle")
@pytest.mark.parametrize("group", range(NUM_GROUPS))
def test_a_loss_finds_no_guess(specs: tuple[StageSpec, ...], expected: list[list[int]], group: int) -> None:
    with InProcessNetwork(speed=SPEED) as network, BareRing(network, specs) as ring:
        for seed in range(group, NUM_LOSSES, NUM_GROUPS):
            schedule = loss_schedules.schedule_of(seed)
            assert loss_schedules.play(ring, schedule, GUESSED) == expected, schedule
            ring.end_sessions()
            assert [ring.host(index).report().kv_reserved_bytes for index in range(3)] == [0, 0, 0], schedule


@pytest.mark.usefixtures("oracle")
@pytest.mark.parametrize("group", range(NUM_GROUPS))
def test_a_follower_copies_no_guess(specs: tuple[StageSpec, ...], expected: list[list[int]], group: int) -> None:
    for seed in range(group, NUM_FOLLOWED, NUM_GROUPS):
        schedule = follow_schedules.schedule_of(seed)
        with InProcessNetwork(speed=SPEED) as network, BareRing(network, specs) as ring:
            assert follow_schedules.play(ring, schedule, GUESSED) == expected, schedule
