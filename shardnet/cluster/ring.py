"""One plan version at work: its stages on the devices, as the coordinator holds them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import zip_longest
from typing import Any

from shardnet.cluster.remote_stage import RemoteStage, collect_timeline
from shardnet.plan import StagePlan
from shardnet.process.threads import on_thread
from shardnet.session import sessions
from shardnet.timeline.stage_report import StageReport
from shardnet.timeline.timeline import Timeline
from shardnet.transport.base import Transport
from shardnet.transport.messages import RingId, SessionStanding, StageKey, StageSizes, StageSpec

WaitFor = Callable[["Future[Any]"], Any]
"""The answer of a device; raises where it is of no use any more."""
WaitForStage = Callable[["Future[Any]", StagePlan], Any]
"""The same, of the device that is to hold a stage."""


class Ring:
    """The stages of one plan version. Those of a ring that takes over from another may be the same ones, rewired."""

    def __init__(self, transport: Transport, plan: Sequence[StagePlan], specs: Sequence[StageSpec]) -> None:
        self.specs = tuple(specs)
        self.ring_id: RingId = specs[0].ring_id
        self.plan = tuple(plan)
        self.stages: tuple[RemoteStage, ...] = ()
        self._transport = transport
        self._since_s: float | None = None
        """When all stages were known to be there."""

    @property
    def route(self) -> sessions.Ring:
        """As sessions see it."""
        return sessions.Ring(self.ring_id, self.specs[0].ring)

    def open(self, wait_for: WaitForStage, kept: Sequence[RemoteStage | None] = ()) -> None:
        """Make room for every stage on its device, but for those that are there already.

        Raises:
            ShardnetError: a device does not answer, or cannot. `stages` has those that are there; what is opened later
                is let go of.
        """
        stages: list[RemoteStage | Future[RemoteStage]] = []
        for spec, plan, stage in zip_longest(self.specs, self.plan, kept):
            opening = partial(RemoteStage, self._transport, spec, plan)
            stages.append(stage or on_thread("shardnet-open", opening))
        try:
            for stage, plan in zip(stages, self.plan, strict=True):
                opened: RemoteStage = stage if isinstance(stage, RemoteStage) else wait_for(stage, plan)
                self.stages = (*self.stages, opened)
        except BaseException:
            for stage in stages[len(self.stages) :]:
                if isinstance(stage, Future):
                    stage.add_done_callback(_let_go)
                else:
                    self.stages = (*self.stages, stage)
            raise

    def load(self) -> list[Future[StageSizes]]:
        """All devices load at the same time."""
        return [stage.load() for stage in self.stages]

    def loaded(self, sizes: Sequence[StageSizes]) -> None:
        """All devices have loaded."""
        for stage, size in zip(self.stages, sizes, strict=True):
            stage.sizes = size
        self._since_s = time.monotonic()

    def adopt(self) -> list[Future[Any]]:
        """Tell every stage of its place in this ring; nothing is sent along it yet. New ones know it already."""
        return [stage.adopt(spec._replace(tensors={})) for stage, spec in zip(self.stages, self.specs, strict=True)]

    def switch(self) -> list[Future[Any]]:
        """Tell every stage to send along this ring, which all of them have adopted."""
        return [stage.switch(self.ring_id) for stage in self.stages]

    def retire_others(self) -> list[Future[Any]]:
        """Tell every stage to answer to this ring alone."""
        self._since_s = time.monotonic()
        return [stage.retire(self.ring_id) for stage in self.stages]

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

    def missing(self, device: str, present: Collection[StageKey], asked_s: float) -> list[int]:
        """The stages that a device should have and has not, by what it said when it was asked at `asked_s`."""
        if self._since_s is None or asked_s <= self._since_s:
            return []
        return [index for index in self.held_by(device) if (self.ring_id, index) not in present]

    def reports(self) -> list[StageReport]:
        """What each stage did."""
        return [stage.report() for stage in self.stages]

    def reset(self) -> None:
        """Begin the account of `reports` anew."""
        for stage in self.stages:
            stage.reset()

    def timeline(self) -> Timeline:
        """The spans of all stages on this process's clock."""
        return collect_timeline(self.stages)


def _let_go(opened: Future[RemoteStage]) -> None:
    """Nobody waits for a stage any more."""
    if opened.exception() is None:
        opened.result().let_go()
