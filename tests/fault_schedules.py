"""What the network does to messages while some conversations go on, as data."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from shardnet.session.route import parts_of
from shardnet.transport import InProcessNetwork
from shardnet.transport.messages import Part

PROMPTS = [[5, 6, 7, 8, 9], [40, 41], [7 + 3 * number for number in range(14)]]


class Fault(NamedTuple):
    """One rule of the network's."""

    kind: str
    source: str
    target: str
    endpoint: str
    count: int
    skip: int


class FaultSchedule(NamedTuple):
    """What the network does while some conversations go on."""

    seed: int
    faults: tuple[Fault, ...]
    most_s: float
    """Every message takes up to so long."""
    num_rewired: int
    """So many times the ring is exchanged."""


def cut_anywhere(session: int, position: int, chunks: Sequence[int]) -> tuple[Part, ...]:
    """As `session.route.parts_of`, of every other session in chunks of any size: those are right that add up."""
    if session % 2 == 0:
        return parts_of(session, position, chunks)
    random, left, sizes = Random(session), sum(chunks), list[int]()
    while left > 0:
        sizes.append(min(left, random.randint(1, 7)))
        left -= sizes[-1]
    return parts_of(session, position, sizes)


def put_into_force(network: InProcessNetwork, schedule: FaultSchedule) -> None:
    network.scatter(schedule.most_s, schedule.seed)
    for kind, source, target, endpoint, count, skip in schedule.faults:
        if kind == "duplicate":
            network.duplicate(source, target, endpoint=endpoint, count=count, skip=skip)
        else:
            network.drop(source, target, endpoint=endpoint, count=count, skip=skip, answers=kind == "drop answers")


def anywhere(faults: Sequence[tuple[str, int, int]], endpoints: Sequence[str]) -> tuple[Fault, ...]:
    """Faults (kind, count, skip) between any two, at these endpoints in turn."""
    return tuple(
        Fault(kind, "*", "*", endpoints[number % len(endpoints)], count, skip)
        for number, (kind, count, skip) in enumerate(faults)
    )
