"""What happens to a ring in which a prepared stage takes the place of others, lost or not, at any moment, in the midst
of faults of the network.

A schedule follows from its number: `schedule_of(17)` says what happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import NamedTuple

from bare_ring import BareRing, Request
from fault_schedules import FaultSchedule, anywhere, put_into_force
from loss_schedules import NUM_APPLIED, REQUESTS
from processes import wait_until

SPEED = 200.0
ENDPOINTS = ("copy_sessions", "hop", "bulk_hop", "tokens", "copy_sessions")
SPANS = ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2))


class Schedule(NamedTuple):
    """What happens to a ring."""

    seed: int
    span: tuple[int, int]
    """The stages of which it has the units."""
    follows_after: int | None
    """When the first of them has come so far with all sessions together; None: never."""
    takes_over_after: int
    lost: tuple[int, ...]
    """Of these stages, those that die then."""
    num_steps: int | None
    """After so many steps of the change another device dies, and the next change begins."""
    second: int
    most_s: float
    """Every message takes up to so long."""
    faults: tuple[tuple[str, int, int], ...]
    """Kind, count, skip."""


def schedule_of(seed: int) -> Schedule:
    random = Random(seed)
    span = random.choice(SPANS)
    moments = sorted(random.randint(0, NUM_APPLIED) for _ in range(2))
    owners = list(range(span[0], span[1] + 1))
    lost = tuple(sorted(random.sample(owners, random.choice((0, 0, 1, len(owners))))))
    faults = [
        (random.choice(("drop", "drop answers", "duplicate")), random.randint(1, 3), random.randint(0, 25))
        for _ in range(random.randint(0, 6))
    ]
    return Schedule(
        seed,
        span,
        random.choice((moments[0], moments[0], None)),
        moments[1],
        lost,
        random.choice((None, None, random.randint(0, 12))),
        random.randint(0, 2),
        random.choice((0.0, 0.2, 1.0)),
        tuple(faults),
    )


def play(ring: BareRing, schedule: Schedule, requests: Sequence[Request] = REQUESTS) -> list[list[int]]:
    first, last = schedule.span
    prepared = ring.prepare(first, last)
    owners = ring.owners(prepared)
    put_into_force(ring.network, FaultSchedule(schedule.seed, anywhere(schedule.faults, ENDPOINTS), schedule.most_s, 0))
    for request in requests:
        ring.start(request)
    if schedule.follows_after is not None:
        wait_until(partial(ring.has_applied, first, schedule.follows_after), 20)
        ring.follow(prepared, owners)
    wait_until(partial(ring.has_applied, first, schedule.takes_over_after), 20)
    for index in schedule.lost:
        ring.lose(index)
    present = [owner for index, owner in enumerate(owners, first) if index not in schedule.lost]
    ring.take_over(prepared, tuple(present))
    for number, _ in enumerate(ring.recovery()):
        if number == schedule.num_steps:
            ring.lose(schedule.second % len(ring.devices))
            ring.recover()
            break
    answers = list(ring.answers().values())
    ring.network.restore()
    return answers
