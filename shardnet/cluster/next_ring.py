"""The next ring of a model, made of the stages that are there: see `policy.shape`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

from shardnet.cluster.blueprint import Blueprint
from shardnet.cluster.placement import LEAST_KV_TOKENS
from shardnet.cluster.remote_stage import RemoteStage
from shardnet.cluster.ring import Ring, Seat
from shardnet.plan import Plan, StagePlan
from shardnet.policy.shape import Held, Piece, missing, pieces
from shardnet.policy.succession import Means
from shardnet.transport.base import Transport
from shardnet.transport.messages import RingId, StageSpec


class Stock(NamedTuple):
    """What there is for a ring."""

    held: Sequence[RemoteStage]
    """The stages of the one before it that are left."""
    take: Callable[[StagePlan], RemoteStage | None]
    """Gives a stage that is ready, for good, where there is one of just these units."""
    is_idle: bool
    """No session is open: whatever is new has nothing to catch up with."""
    copied: Collection[StagePlan] = ()
    """Stages that are ready and keep near those that they take over from: what they lack is copied in the change."""

    def comes_level(self, stage: StagePlan) -> bool:
        """Whether a new stage will stand where others do, when stages become one."""
        return self.is_idle or stage in self.copied


def next_ring(transport: Transport, blueprint: Blueprint, ring_id: RingId, stock: Stock, plan: Plan) -> Ring:
    """The ring that a plan makes of what there is. Stages that can become one at once do so in it.

    Raises:
        DoesNotFit: a device cannot hold its weights and the KV cache of one short session.
    """
    for stage in stock.held if stock.is_idle else ():
        stage.is_level = True
    held = [Held(stage.plan, stage.is_level) for stage in stock.held]
    found = pieces(held, plan, stock.comes_level)
    return _Making(transport, blueprint, stock, found).ring(ring_id, plan)


def means_of(
    blueprint: Blueprint,
    plan: Plan,
    left: Sequence[RemoteStage],
    reserved_tokens: int,
    is_ready: Callable[[StagePlan], bool],
) -> Means:
    """What others can take over with.

    Args:
        plan: the one in force.
        left: the stages that are not to be replaced.
        is_ready: whether just these units are loaded on a device.
    """

    def is_all_ready(stages: Sequence[StagePlan]) -> bool:
        return all(map(is_ready, missing_of(left, Plan(tuple(stages)))))

    has_room = partial(blueprint.has_room, plan)
    standby = blueprint.options.standby
    return Means(blueprint.problem, has_room, reserved_tokens, LEAST_KV_TOKENS, is_all_ready, standby)


def missing_of(stages: Sequence[RemoteStage], plan: Plan) -> tuple[StagePlan, ...]:
    """What is to be loaded beside these, where a plan takes the place of another."""
    return missing(pieces([Held(stage.plan) for stage in stages], plan))


class _Making:
    """Gives each stage a place: in the ring, or behind those in it, where it becomes part of another one."""

    def __init__(self, transport: Transport, blueprint: Blueprint, stock: Stock, found: Sequence[Piece]) -> None:
        self._transport = transport
        self._blueprint = blueprint
        self._stock = stock
        self._pieces = found

    def ring(self, ring_id: RingId, plan: Plan) -> Ring:
        whole = [piece.plan for piece in self._pieces]
        beside = [section.plan for piece in self._pieces if len(piece.sections) > 1 for section in piece.sections]
        specs = self._blueprint.specs(ring_id, [*whole, *beside], plan)
        stops = specs[0].ring[: len(whole)]
        places = [spec._replace(ring=stops) for spec in specs[: len(whole)]]
        left = iter(specs[len(whole) :])
        seats = [
            self._seats(piece, place, [next(left) for _ in piece.sections] if len(piece.sections) > 1 else [place])
            for piece, place in zip(self._pieces, places, strict=True)
        ]
        return Ring(self._transport, whole, places, seats)

    def _seats(self, piece: Piece, place: StageSpec, own: Sequence[StageSpec]) -> list[Seat]:
        """Those of one stage of the ring.

        Args:
            own: places for each section by itself. The first is opened in its own, and then takes that of the whole.
        """
        seats = []
        for index, (section, spec) in enumerate(zip(piece.sections, own, strict=True)):
            held = self._held(section.held, section.plan)
            seats.append(Seat(section.plan, place if index == 0 else spec, spec, held, self._stock.is_idle))
        return seats

    def _held(self, index: int | None, plan: StagePlan) -> RemoteStage | None:
        if index is not None:
            return self._stock.held[index]
        ready = self._stock.take(plan)
        if ready is not None:
            ready.is_level = self._stock.is_idle
        return ready
