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
from shardnet.transport.messages import StageSpec
from shardnet.transport.session_messages import SamplingOptions

SPEED = 200.0
ENDPOINTS = ("tokens", "hop", "bulk_hop")
NUM_TOKENS = 8
PENALISED = SamplingOptions(
    presence_penalty=1.5, frequency_penalty=0.5, logit_bias=((18, 1.5), (19, -100.0)), logprobs=2
)
REQUESTS = [
    Request([5, 6, 7, 8, 9], NUM_TOKENS),
    Request([7 + 3 * number for number in range(60)], NUM_TOKENS),
    Request([40, 41], NUM_TOKENS, SamplingOptions(temperature=0.9, top_k=40, repetition_penalty=1.3, seed=5)),
    Request([100 + number for number in range(13)], NUM_TOKENS, SamplingOptions(temperature=1.1, top_p=0.9, seed=6)),
    Request([17, 18, 19], NUM_TOKENS, PENALISED),
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
    cuts: tuple[int, ...] = ()
    """Sizes of the chunks in which prompts come, over and over; none: each comes in one."""


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
    most_s = random.choice((0.0, 0.2, 1.0))
    cuts = tuple(random.randint(1, 9) for _ in range(random.choice((0, 1, 3))))
    return Schedule(seed, tuple(losses), most_s, tuple(faults), cuts)


def chunks_of(sizes: Sequence[int], num_tokens: int) -> list[int]:
    """So many tokens in chunks of these sizes, over and over."""
    chunks: list[int] = []
    while (left := num_tokens - sum(chunks)) > 0:
        chunks.append(min(left, sizes[len(chunks) % len(sizes)]) if sizes else left)
    return chunks


def answers(specs: tuple[StageSpec, ...], requests: Sequence[Request]) -> list[list[int]]:
    """Of a ring where nothing happens."""
    with InProcessNetwork(speed=SPEED) as network, BareRing(network, specs) as ring:
        for request in requests:
            ring.start(request)
        return list(ring.answers().values())


def play(ring: BareRing, schedule: Schedule, requests: Sequence[Request] = REQUESTS) -> list[list[int]]:
    put_into_force(ring.network, FaultSchedule(schedule.seed, anywhere(schedule.faults, ENDPOINTS), schedule.most_s, 0))
    ring.cut = partial(chunks_of, schedule.cuts)
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
