"""Stages that belong to no ring yet: loaded for when a device is lost, so that nothing has to be loaded then.

What is kept ready is decided by `policy.standby`, some seconds after a model was loaded or its ring has changed:
whoever only asks for one answer pays nothing for it. It is given up at once when a conversation needs the memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from typing import Any

from shardnet.cluster.present import Present
from shardnet.cluster.remote_stage import RemoteStage
from shardnet.errors import ClusterError, DoesNotFit, ShardnetError
from shardnet.plan import Plan, StagePlan
from shardnet.policy.standby import COPY_S, QUIET_S, Reserve, overlapping, reserves
from shardnet.policy.succession import HOT, WARM
from shardnet.process.threads import on_thread
from shardnet.timeline.events import units_of
from shardnet.transport.base import Transport
from shardnet.transport.messages import RingId, StageSpec

GIVE_UP_S = 5.0
"""How long who asks for memory waits until it is free."""
_log = logging.getLogger(__name__)


class Standby:
    """The stages that are kept ready for one deployment."""

    def __init__(
        self,
        transport: Transport,
        draw_id: Callable[[], RingId],
        note: Callable[[str, str, str], object],
        on_ready: Callable[[], object] = lambda: None,
    ) -> None:
        """Args: `on_ready`, called when one more stage is ready."""
        self._transport = transport
        self._draw_id = draw_id
        self._note = note
        self._on_ready = on_ready
        self._news = threading.Condition()
        """Guards all that follows."""
        self._stages: dict[StagePlan, RemoteStage] = {}
        self._ring_ids: dict[StagePlan, RingId] = {}
        """Also of those that are being opened."""
        self._opening: set[StagePlan] = set()
        self._taken: set[RingId] = set()
        """Of those that were taken: their devices know them by these until they have another place."""
        self._asked: frozenset[StagePlan] = frozenset()
        """What was asked for by `load`: it is not dropped before the ring has changed."""
        self._ring_id: RingId | None = None
        """Of that ring."""
        self._lost: set[str] = set()
        self._present: Present | None = None
        """What to prepare for; None where nothing is to be done."""
        self._due_s = 0.0
        self._is_running = False
        self._is_closed = False

    def prepare(self, present: Present) -> None:
        """From now on this is the ring. Does not wait."""
        with self._news:
            self._taken.clear()
            if self._is_closed:
                return
            ring_id = present.specs[0].ring_id
            if self._ring_id != ring_id:
                self._ring_id, self._asked = ring_id, frozenset()
            self._present, self._due_s = present, time.monotonic() + QUIET_S
            if not self._is_running:
                self._is_running = True
                on_thread("shardnet-standby", self._run)
            self._news.notify_all()

    def pause(self) -> None:
        """The ring is changing: begin nothing new before `prepare`."""
        with self._news:
            self._present = None

    def take(self, stage: StagePlan) -> RemoteStage | None:
        """One that is ready, or nearly so; it is the caller's from now on, which has a place for it by `prepare`."""
        with self._news:
            if stage not in self._stages:
                return None
            self._taken.add(self._ring_ids.pop(stage))
            return self._stages.pop(stage)

    def is_ready(self, stage: StagePlan) -> bool:
        """Whether it is loaded."""
        with self._news:
            return stage in self._stages and self._stages[stage].is_loaded

    @property
    def ready(self) -> list[StagePlan]:
        """What is kept ready, by device."""
        with self._news:
            return sorted(self._stages, key=lambda stage: (stage.device, stage.first_unit))

    @property
    def stages(self) -> list[RemoteStage]:
        """The same, as they are held."""
        with self._news:
            return [stage for stage in self._stages.values() if stage.is_loaded]

    def take_up(self, stages: Sequence[RemoteStage]) -> None:
        """Keep stages ready that were loaded for it by an earlier coordinator, under ring ids of this one.

        Waits for their devices. What is of no use any more is let go of.
        """
        present = self._present
        for stage in stages:
            try:
                if present is None:
                    raise ClusterError("nothing is kept ready now.")
                self._take_one_up(present, stage)
            except ShardnetError:
                stage.let_go()
        self._on_ready()

    def _take_one_up(self, present: Present, stage: RemoteStage) -> None:
        """
        Raises:
            ShardnetError: its device does not answer, or has no room for it.
        """
        spec = self._spec(present, stage.plan)
        stage.sizes = stage.load().result()
        stage.adopt(spec).result()
        stage.switch(spec.ring_id).result()
        stage.retire(spec.ring_id).result()
        with self._news:
            if self._is_closed or stage.plan.device in self._lost or stage.plan in self._stages:
                raise ClusterError(f"nothing more is kept ready on {stage.plan.device}.")
            self._ring_ids[stage.plan] = spec.ring_id
            self._stages[stage.plan] = stage

    def holds(self, ring_id: RingId) -> bool:
        """Whether there is a use for a stage that was opened under that id."""
        with self._news:
            return not self._is_closed and ring_id in {*self._taken, *self._ring_ids.values()}

    def lose(self, device: str) -> None:
        """A device is lost for good: its handles are dropped before it is struck off."""
        with self._news:
            self._lost.add(device)
            for stage in [each for each in self._stages if each.device == device]:
                self._ring_ids.pop(stage, None)
                self._stages.pop(stage).release()

    def forget(self, device: str) -> None:
        """Another one has come under the name of one that was lost."""
        with self._news:
            self._lost.discard(device)

    def give_up(self) -> bool:
        """The memory is needed: waits until it is free. False where nothing was. Nothing is loaded until `prepare`."""
        with self._news:
            self._present = None
            stages = self._take_all()
        return _are_unloaded(stages)

    def close(self) -> list[RemoteStage]:
        """Nothing is kept ready any more. Returns what was, to be unloaded."""
        with self._news:
            self._is_closed = True
            self._news.notify_all()
            return self._take_all()

    def _take_all(self, but: Collection[StagePlan] = ()) -> list[RemoteStage]:
        taken = [stage for plan, stage in self._stages.items() if plan not in but]
        self._stages = {plan: stage for plan, stage in self._stages.items() if plan in but}
        self._ring_ids = {plan: ring_id for plan, ring_id in self._ring_ids.items() if plan in but}
        return taken

    def _run(self) -> None:
        while True:
            with self._news:
                while not self._is_closed and (self._present is None or time.monotonic() < self._due_s):
                    self._news.wait(None if self._present is None else max(self._due_s - time.monotonic(), 0.0))
                if self._is_closed:
                    return
                present = self._present
            assert present is not None, "something is due"
            try:
                self._get_ready(present)
            except Exception as error:  # whatever it is, the model works without
                _log.error("keeping units ready failed: %s: %s", type(error).__name__, error)
            with self._news:
                if self._present is present:
                    self._present = None

    def _get_ready(self, present: Present) -> None:
        standby = present.blueprint.options.standby
        wanted = _reserves_of(present) if standby in (WARM, HOT) else []
        with self._news:
            if self._present is not present:
                return
            needful = self._asked.union(reserve.stage for reserve in wanted)
            needless = self._popped([each for each in self._stages if each not in needful])
        for each in needless:
            each.let_go()
        for reserve in wanted:
            if not self._is_wanted(present):
                return
            self._load(present, reserve)
        if standby == HOT:
            self._follow(present, [reserve.stage for reserve in wanted])

    def load(self, present: Present, stages: Sequence[StagePlan]) -> list[StagePlan]:
        """Have these loaded now, and wait for it: the ring is about to be changed. Returns those that have copied all
        that is known of sessions, and keep near.

        What is ready with more units than these gives up the others, and where a device has no room for these, all else
        that is ready is given up.

        Raises:
            ShardnetError: a device cannot.
        """
        new = [stage for stage in stages if stage not in self.ready]
        with self._news:
            self._asked = self._asked.union(stages)
        wait([on_thread("shardnet-standby", partial(self._narrow, stage)) for stage in stages])
        has_others = False
        try:
            try:
                self._load_all(present, stages)
            except DoesNotFit:
                with self._news:
                    has_others = not self._stages.keys() <= set(stages)
                    self._present = None if has_others else self._present  # nothing else is loaded into what is free
                    kept = [plan for plan, stage in self._stages.items() if plan in stages and not stage.has_failed]
                    others = self._take_all(but=kept)
                _are_unloaded(others)
                if not has_others:
                    raise
                self._load_all(present, stages)
        except ShardnetError:
            self._drop(new)
            if has_others and self._ring_id == present.specs[0].ring_id:
                self.prepare(present)  # what was given up is loaded again
            raise
        copied = self._follow(present, stages)
        wait(copied.values(), timeout=COPY_S)
        return [stage for stage, answer in copied.items() if answer.done() and answer.exception() is None]

    def _load_all(self, present: Present, stages: Sequence[StagePlan]) -> None:
        """
        Raises:
            ShardnetError: a device cannot.
        """
        opened = [self._open(present, stage) for stage in stages]
        loads = [each.load() for each in opened]
        wait(loads)
        for loaded in loads:
            loaded.result()

    def _drop(self, stages: Sequence[StagePlan]) -> None:
        """There is no use for these."""
        with self._news:
            dropped = self._popped(stages)
        for each in dropped:
            each.let_go()

    def _popped(self, stages: Sequence[StagePlan]) -> list[RemoteStage]:
        for stage in stages:
            self._ring_ids.pop(stage, None)
        return [self._stages.pop(stage) for stage in stages if stage in self._stages]

    def _narrow(self, wanted: StagePlan) -> None:
        """Let a stage that is ready, and has these units among others, keep only these; it may be used up by that."""
        with self._news:
            wider = [each for each, stage in self._stages.items() if each.covers(wanted) and stage.is_loaded]
            if not wider or wanted in self._stages:
                return
            whole = min(wider, key=lambda each: each.num_units)
            ready = self._stages.pop(whole)
            self._ring_ids[wanted] = ring_id = self._ring_ids.pop(whole)
        try:
            ready.keep_only(wanted)
        except ShardnetError:  # the units are loaded anew
            self._drop([wanted])
            ready.let_go()
        else:
            self._keep(ready, ring_id)

    def _keep(self, opened: RemoteStage, ring_id: RingId) -> bool:
        """From now on it is ready, or nearly so; False where there is no use for it any more."""
        stage = opened.plan
        with self._news:
            is_lost = stage.device in self._lost
            is_wanted = self._ring_ids.get(stage) == ring_id and not self._is_closed
            if is_wanted and is_lost:
                del self._ring_ids[stage]
            elif is_wanted:
                self._stages[stage] = opened
        if is_lost:
            opened.release()
        elif not is_wanted:
            opened.let_go()
        return is_wanted and not is_lost

    def _follow(self, present: Present, stages: Sequence[StagePlan]) -> dict[StagePlan, Future[Any]]:
        """Let what is ready copy what its owners know of sessions, and go on doing so."""
        with self._news:
            ready = [(self._stages[stage], present.owners_of(stage)) for stage in stages if stage in self._stages]
        return {stage.plan: stage.follow(owners) for stage, owners in ready if owners and stage.is_loaded}

    def _load(self, present: Present, reserve: Reserve) -> None:
        """What does not fit is left out."""
        stage = reserve.stage
        with self._news:
            if stage in self._stages:
                return
        try:
            opened = self._open(present, stage)
        except ShardnetError:
            return
        try:
            opened.load().result()
        except ShardnetError:
            with self._news:
                is_ours = self._stages.get(stage) is opened
                if is_ours:
                    del self._stages[stage], self._ring_ids[stage]
            if is_ours:
                opened.let_go()
        else:
            text = f"{stage.device} keeps {units_of([stage])} ready for {reserve.instead_of}"
            self._note("standby", text, stage.device)
            self._on_ready()

    def _open(self, present: Present, stage: StagePlan) -> RemoteStage:
        """Make room for it, unless it is there.

        Raises:
            ShardnetError: its device cannot, or there is no use for it any more.
        """
        with self._news:
            self._news.wait_for(lambda: stage not in self._opening)
            if stage in self._stages:
                return self._stages[stage]
            self._opening.add(stage)
        try:
            return self._open_new(self._spec(present, stage), stage)
        finally:
            with self._news:
                self._opening.discard(stage)
                self._news.notify_all()

    def _open_new(self, spec: StageSpec, stage: StagePlan) -> RemoteStage:
        with self._news:
            self._ring_ids[stage] = spec.ring_id
        try:
            opened = RemoteStage(self._transport, spec, stage)
        except BaseException:
            self._drop([stage])
            raise
        if not self._keep(opened, spec.ring_id):
            raise ClusterError(f"nothing is kept ready on {stage.device} any more.")
        return opened

    def _is_wanted(self, present: Present) -> bool:
        return self._present is present and not self._is_closed

    def _spec(self, present: Present, stage: StagePlan) -> StageSpec:
        """As a stage of a ring that has nothing else; the budget for caches stays as it is on that device.

        Raises:
            DoesNotFit: it has no room for it.
        """
        [spec] = present.blueprint.specs(self._draw_id(), [stage], Plan((stage,)))
        budgets = {each.device: now.kv_budget_bytes for each, now in zip(present.stages, present.specs, strict=True)}
        num_groups = present.specs[0].num_groups if stage.first_unit == 0 else 1
        return spec._replace(kv_budget_bytes=budgets.get(stage.device, spec.kv_budget_bytes), num_groups=num_groups)


def _reserves_of(present: Present) -> list[Reserve]:
    """What is to be kept ready."""
    unit_bytes = [unit.weight_bytes for unit in present.blueprint.files.profile.units]
    spare_bytes = present.blueprint.spare_bytes(present.plan)
    wanted = list(reserves(present.plan, present.stages, present.means, unit_bytes, spare_bytes))
    with suppress(ShardnetError):  # there is no solver, or it is late
        problem = present.blueprint.problem((), 1)
        wanted += overlapping(problem, present.plan, wanted, unit_bytes, spare_bytes)
    return wanted


def _are_unloaded(stages: Sequence[RemoteStage]) -> bool:
    """Let these go, and wait until their memory is free; False where there are none."""
    wait([stage.unload() for stage in stages], timeout=GIVE_UP_S)
    for stage in stages:
        stage.release()
    return bool(stages)
