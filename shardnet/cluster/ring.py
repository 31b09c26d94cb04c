"""One plan version at work: its stages on the devices, as the coordinator holds them.

A stage may consist of several at first, all on its device, of which the first is the one that stays: the others have
places beside the ring until they have become part of it (`Ring.shape`). A ring that is broken off before that has them
all, each as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain, pairwise
from typing import Any, NamedTuple

from shardnet.cluster.remote_stage import RemoteStage
from shardnet.errors import CallTimeout, ClusterError
from shardnet.plan import StagePlan
from shardnet.process.threads import on_thread
from shardnet.session import route
from shardnet.timeline.stage_report import StageReport
from shardnet.transport.base import Transport
from shardnet.transport.messages import RingId, SessionStanding, StageKey, StageSizes, StageSpec, Stretch

WaitFor = Callable[["Future[Any]"], Any]
"""The answer of a device; raises where it is of no use any more."""
WaitForStage = Callable[["Future[Any]", StagePlan], Any]
"""The same, of the device that is to hold a stage."""


class Seat(NamedTuple):
    """Where one of the stages is to be of which a ring is made."""

    plan: StagePlan
    """What it has there, alone: it may have more before."""
    place: StageSpec
    opening: StageSpec
    """By which it is opened where it is not there."""
    held: RemoteStage | None = None
    is_level: bool = True
    """Where it is opened: see `RemoteStage.is_level`."""


class Ring:
    """The stages of one plan version. Those of a ring that takes over from another may be the same ones, rewired.

    Args:
        plan: what each stage of the ring has, when all have become what they are to be.
        specs: the places of these.
        seats: for each of them, what it is made of, in the order of the units; itself, where this is left out.
    """

    def __init__(
        self,
        transport: Transport,
        plan: Sequence[StagePlan],
        specs: Sequence[StageSpec],
        seats: Sequence[Sequence[Seat]] | None = None,
    ) -> None:
        self.specs = tuple(specs)
        self.ring_id: RingId = specs[0].ring_id
        self.plan = tuple(plan)
        self.stages: tuple[RemoteStage, ...] = ()
        """One for each of `plan`, when all are open."""
        self._opened: tuple[RemoteStage, ...] = ()
        self._parts: list[list[RemoteStage]] = []
        """What each stage consists of, when all are open: the first is the one that stays."""
        alone = [(Seat(stage, spec, spec),) for stage, spec in zip(self.plan, self.specs, strict=True)]
        self._seats = [tuple(each) for each in seats] if seats is not None else alone
        self._shaping: dict[int, Future[StageSizes]] = {}
        """Of stages that were told to become what they are to be: who has not answered may be it, or not."""
        self._transport = transport
        self._since_s: float | None = None
        """When all stages were known to be there."""

    @property
    def route(self) -> route.Ring:
        """As sessions see it."""
        return route.Ring(self.ring_id, self.specs[0].ring)

    @property
    def members(self) -> tuple[RemoteStage, ...]:
        """The stages, and those that are still to become part of one of them; while they are opened, those that are."""
        return tuple(chain.from_iterable(self._parts)) or self._opened

    def usable(self, lost: Collection[str]) -> list[RemoteStage]:
        """Those of `members` that are of use where these devices are lost."""
        return [stage for stage in self.members if stage.plan.device not in lost and not stage.has_failed]

    @property
    def sections(self) -> list[StagePlan]:
        """What each of `members` is to have alone."""
        return [seat.plan for whole in self._seats for seat in whole]

    def places(self) -> list[tuple[RemoteStage, StageKey]]:
        """Of each of `members`, its place in this ring."""
        seats = chain.from_iterable(self._seats)
        return [(stage, (self.ring_id, seat.place.stage)) for stage, seat in zip(self.members, seats, strict=True)]

    def open(self, wait_for: WaitForStage) -> None:
        """Make room for every stage on its device, but for those that are there already.

        Raises:
            ShardnetError: a device does not answer, or cannot. `members` has those that are there; what is opened later
                is let go of.
        """
        stages: list[RemoteStage | Future[RemoteStage]] = []
        for seat in chain.from_iterable(self._seats):
            opening = partial(RemoteStage, self._transport, seat.opening, seat.plan, is_level=seat.is_level)
            stages.append(seat.held or on_thread("shardnet-open", opening))
        try:
            for stage, plan in zip(stages, self.sections, strict=True):
                opened: RemoteStage = stage if isinstance(stage, RemoteStage) else wait_for(stage, plan)
                self._opened = (*self._opened, opened)
        except BaseException:
            for stage in stages[len(self._opened) :]:
                if isinstance(stage, Future):
                    stage.add_done_callback(_let_go)
                else:
                    self._opened = (*self._opened, stage)
            raise
        members = iter(self._opened)
        self._parts = [[next(members) for _ in whole] for whole in self._seats]
        self.stages = tuple(parts[0] for parts in self._parts)

    def load(self) -> list[Future[StageSizes]]:
        """All devices load at the same time."""
        return [stage.load() for stage in self.members]

    def loaded(self, sizes: Sequence[StageSizes]) -> None:
        """All devices have loaded."""
        for stage, size in zip(self.members, sizes, strict=True):
            stage.sizes = size
        self._since_s = time.monotonic()

    def adopt(self) -> list[Future[Any]]:
        """Tell every stage of its place in this ring; nothing is sent along it yet. New ones know it already."""
        places = [seat.place._replace(tensors={}, config="") for seat in chain.from_iterable(self._seats)]
        return [stage.adopt(place) for stage, place in zip(self.members, places, strict=True)]

    def switch(self) -> list[Future[Any]]:
        """Tell every stage to send along this ring, which all of them have adopted."""
        return [stage.switch(self.ring_id) for stage in self.members]

    def retire_others(self) -> list[Future[Any]]:
        """Tell every stage to answer to this ring alone."""
        self._since_s = time.monotonic()
        return [stage.retire(self.ring_id) for stage in self.members]

    def shape(self) -> None:
        """Tell every stage that is not what it is to be to become it; see `settle`. All answer to this ring alone."""
        for index, parts in enumerate(self._parts):
            if len(parts) > 1 or parts[0].plan != self.plan[index]:
                self._tell_shape(index)

    def _tell_shape(self, index: int) -> None:
        seats = self._seats[index]
        stretches = tuple(Stretch(seat.place.stage, seat.plan.first_unit, seat.plan.last_unit) for seat in seats)
        self._shaping[index] = self._parts[index][0].shape(self.ring_id, stretches)

    def settle(self, lost: Collection[str], wait_for: WaitFor) -> None:
        """Wait until every stage that was told is what it is to be, but for those of devices that are lost: of any
        other it is known then what it has.
        """
        for index, answer in list(self._shaping.items()):
            stage, *others = self._parts[index]
            if stage.plan.device in lost:
                continue
            if answer.done() and isinstance(answer.exception(), CallTimeout):  # it was silent then
                self._tell_shape(index)
            stage.sizes = wait_for(self._shaping[index])
            del self._shaping[index]
            stage.plan = self.plan[index]
            self._parts[index] = [stage]
            self._seats[index] = (Seat(self.plan[index], self.specs[index], self.specs[index]),)
            for other in others:
                other.let_go()

    def divided(self) -> list[tuple[RemoteStage, RemoteStage]]:
        """Stages that follow each other on one device."""
        return [(one, other) for one, other in pairwise(self.stages) if one.plan.device == other.plan.device]

    def standings(self) -> list[Future[tuple[SessionStanding, ...]]]:
        """How far the sessions stand at each stage."""
        return [stage.standings() for stage in self.stages]

    def held_by(self, device: str) -> list[int]:
        """The stages that a device has, by their index."""
        return [index for index, stage in enumerate(self.plan) if stage.device == device]

    def what_goes_with(self, device: str) -> str:
        """The first stage that a device holds, in words that follow what became of it; empty where it holds none."""
        held = self.held_by(device)
        if not held:
            return ""
        stage = self.plan[held[0]]
        return f", and with it stage {held[0] + 1} of {len(self.plan)} (units {stage.first_unit} to {stage.last_unit})"

    @property
    def what_goes(self) -> dict[str, str]:
        """`what_goes_with` each of its devices."""
        return {stage.device: self.what_goes_with(stage.device) for stage in self.plan}

    def missing(self, device: str, present: Collection[StageKey], asked_s: float) -> list[int]:
        """The stages that a device should have and has not, by what it said when it was asked at `asked_s`."""
        if self._since_s is None or asked_s <= self._since_s:
            return []
        return [index for index in self.held_by(device) if (self.ring_id, index) not in present]


def reports_of(present: Callable[[], Ring]) -> list[StageReport]:
    """What the stages of the ring in force did. Where one becomes part of another meanwhile, all are asked anew.

    Args:
        present: the ring in force; waits while another one takes over.

    Raises:
        ClusterError: a stage does not answer, and nothing has changed.
    """
    while True:
        ring = present()
        stages = list(ring.stages)
        try:
            return [stage.report() for stage in stages]
        except ClusterError:
            after = present()
            if after is ring and list(after.stages) == stages:
                raise


def _let_go(opened: Future[RemoteStage]) -> None:
    """Nobody waits for a stage any more."""
    if opened.exception() is None:
        opened.result().let_go()
