"""What happens to a ring whose stages are lost at any moment, in the midst of faults of the network.

A schedule follows from its number: `schedule_of(17)` says what happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import NamedTuple

from bare_ring import BareRing, Request
from fault_schedules import FaultSchedule, anywhere, put_into_force
from processes import wait_until

from shardnet.transport import InProcessNetwork
from shardnet.transport.messages import SamplingOptions, StageSpec

SPEED = 200.0
ENDPOINTS = ("tokens", "hop", "bulk_hop")
NUM_TOKENS = 8
REQUESTS = [
    Request([5, 6, 7, 8, 9], NUM_TOKENS),
    Request([7 + 3 * number for number in range(60)], NUM_TOKENS),
    Request([40, 41], NUM_TOKENS, SamplingOptions(temperature=0.9, top_k=40, repetition_penalty=1.3, seed=5)),
    Request([100 + number for number in range(13)], NUM_TOKENS, SamplingOptions(temperature=1.1, top_p=0.9, seed=6)),
]
NUM_APPLIED = sum(len(request.prompt) + NUM_TOKENS - 1 for request in REQUESTS)
"""Tokens that go through a stage."""


class Loss(NamedTuple):
    """Some stages are lost."""

    after_applied: int
    """When the first of them has come so far with all sessions together."""
    stages: tuple[int, ...]
    num_steps: int | None
    """After so many steps of the recovery the next loss comes; None: it goes through."""


class Schedule(NamedTuple):
    """What happens to a ring."""

    seed: int
    losses: tuple[Loss, ...]
    most_s: float
    """Every message takes up to so long."""
    faults: tuple[tuple[str, int, int], ...]
    """Kind, count, skip: of what the stages send."""


def schedule_of(seed: int) -> Schedule:
    random = Random(seed)
    num_losses = random.choice((1, 1, 2, 3))
    losses: list[Loss] = []
    for number in range(num_losses):
        is_given_up = bool(losses) and losses[-1].num_steps is not None
        after_applied = 0 if is_given_up else random.randint(0, NUM_APPLIED)
        stages = random.choice(((0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)))
        is_last = number == num_losses - 1
        num_steps = None if is_last else random.choice((None, random.randint(0, 11)))
        losses.append(Loss(after_applied, stages, num_steps))
    faults = [
        (random.choice(("drop", "drop answers", "duplicate")), random.randint(1, 3), random.randint(0, 25))
        for _ in range(random.randint(0, 6))
    ]
    return Schedule(seed, tuple(losses), random.choice((0.0, 0.2, 1.0)), tuple(faults))


def answers(specs: tuple[StageSpec, ...], requests: Sequence[Request]) -> list[list[int]]:
    """Of a ring where nothing happens."""
    with InProcessNetwork(speed=SPEED) as network, BareRing(network, specs) as ring:
        for request in requests:
            ring.start(request)
        return list(ring.answers().values())


def play(ring: BareRing, schedule: Schedule, requests: Sequence[Request] = REQUESTS) -> list[list[int]]:
    put_into_force(ring.network, FaultSchedule(schedule.seed, anywhere(schedule.faults, ENDPOINTS), schedule.most_s, 0))
    for request in requests:
        ring.start(request)
    for loss in schedule.losses:
        wait_until(partial(ring.has_applied, loss.stages[0], loss.after_applied), 20)
        for stage in loss.stages:
            ring.lose(stage)
        for number, _ in enumerate(ring.recovery()):
            if number == loss.num_steps:
                break
    answers = list(ring.answers().values())
    ring.network.restore()
    return answers
