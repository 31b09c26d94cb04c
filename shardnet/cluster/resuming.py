"""A model goes on that another coordinator has left on devices: its stages with weights, caches and sessions.

    find      each device is asked for the stages that it should have, until it has heard of this process
    open      what is not there any more becomes new stages, on other devices where theirs are gone
    renew     one round as after any loss (`cluster.handover`): it sees what the stages know of the sessions

Until that round nothing is changed at any stage. So this process may end at any moment, and the next one finds the
same, or what the round has written down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from shardnet.cluster.blueprint import Blueprint
from shardnet.cluster.deployment import Deployment
from shardnet.cluster.left_model import KEEP_S, LeftModel, LeftSession, LeftStage
from shardnet.cluster.load_options import LoadOptions
from shardnet.cluster.loading import named_for, session_numbers
from shardnet.cluster.model import Model
from shardnet.cluster.next_ring import Stock, means_of, next_ring
from shardnet.cluster.remote_stage import RemoteStage
from shardnet.cluster.ring import Ring
from shardnet.errors import CallTimeout, ClusterError, DeviceLost, PlanNotInForce
from shardnet.loader import ModelFiles
from shardnet.plan import Plan, StagePlan
from shardnet.policy.succession import Away, Verdict, succeed
from shardnet.process.threads import on_thread
from shardnet.progress import silent
from shardnet.session.session import Session
from shardnet.shipping.dispatch import Dispatch
from shardnet.transport.base import Transport
from shardnet.transport.messages import RingId

RETURN_S = 5.0
"""How long devices may take to hear of this process, before others take over what they hold."""
RETURN_AT_MOST_S = 60.0
"""The same where others cannot: a door waits no longer."""
NOT_BACK = "it has not come back"
AGAIN_S = 0.05
TRIES = 3
"""How often it is looked anew because a device was lost just then."""

Check = Callable[[], object]
"""Raises where nobody waits any more."""


@dataclass(frozen=True)
class Resumed:
    """A model that goes on."""

    model: Model
    sessions: dict[int, Session]
    """By their numbers."""
    num_new: int
    """Stages that had to be loaded."""


@dataclass(frozen=True)
class Opened:
    """A ring of the stages that are there, and of new ones; it was never in force."""

    ring: Ring
    plan: Plan
    gone: frozenset[str]
    """Devices of the model that are no members any more."""
    num_new: int
    ready: list[RemoteStage]
    """Stages that were kept ready, and are not part of the ring."""


def blueprint_again(dispatch: Dispatch, left: LeftModel, opened: ModelFiles, options: LoadOptions) -> Blueprint:
    """What the stages were made from.

    Raises:
        ClusterError: the model's files are others now.
    """
    files = named_for((), dispatch, opened, options, progress=silent)
    if left.checkpoint not in (files.copy.name, opened.copy.name):  # it may have been hashed since, for a newcomer
        raise ClusterError(f"the files of {files.name} are not those any more that its devices have loaded.")
    if left.unit_weights:
        files = files.held_as(left.unit_weights, left.predicted_loss)
    dispatch.learn(left.links)
    source = dispatch.transport.name
    was_placed = (left.deployment, left.devices, left.links, left.context_tokens)
    return Blueprint(source, files, options, *was_placed, KEEP_S, left.codecs)


def open_again(
    transport: Transport, left: LeftModel, blueprint: Blueprint, sessions: Sequence[LeftSession], check: Check
) -> Opened:
    """Find the stages that are there, and make room for those that are not. Waits for devices that come back.

    Raises:
        ClusterError: no device has anything of the model any more, or too many were lost meanwhile.
        DoesNotFit, DeviceLost: what is gone finds no room.
    """
    for _ in range(TRIES):
        search = Search(transport, left, blueprint)
        try:
            plan = _plan_of_what_is_found(search, left, blueprint, sessions, check)
            ring_id = RingId(left.epoch, transport.draw("plan_version"))
            search.look_for_ready()
            if not search.found:
                raise ClusterError("no device has anything of it any more.")
            stock = Stock([search.found[index] for index in sorted(search.found)], search.take, not sessions)
            ring = next_ring(transport, blueprint, ring_id, stock, plan)
        except BaseException:
            search.release()
            raise
        try:
            ring.open(lambda answer, _: answer.result())
        except BaseException as error:
            for stage in search.new_in(ring):
                stage.let_go()
            search.release()
            if not isinstance(error, (DeviceLost, CallTimeout)):
                raise
            continue
        num_new = len(search.new_in(ring))
        return Opened(ring, plan, search.gone, num_new, list(search.ready.values()))
    raise ClusterError("devices were lost again and again while it was looked for.")


def stand_again(
    deployment: Deployment, opened: Opened, blueprint: Blueprint, sessions: Sequence[LeftSession]
) -> dict[int, Session]:
    """Let a new deployment stand on what was opened, with the sessions of `left`; `Deployment.renew` lets it go on."""
    deployment.place(opened.ring, session_numbers(deployment.transport))
    deployment.sessions.suspend()
    restore = deployment.sessions.restore
    restored = {each.spec.session: restore(each.spec, each.prompt_ids, each.answer()) for each in sessions}
    deployment.stand(blueprint, opened.plan)
    return restored


def go_on_without(
    deployment: Deployment,
    lost: Mapping[str, str],
    silent_ones: Callable[[], Collection[str]],
    ready: Sequence[RemoteStage],
) -> None:
    """Let a deployment that stands go on, as far as devices are there.

    Args:
        lost: devices with the reasons.
        silent_ones: gives those that may come back: who watches them tells the deployment of further ones, and when
            they are heard again.
        ready: stages to be kept ready.

    Raises:
        ShardnetError: it cannot go on, and is closed.
    """
    for device, why in lost.items():
        deployment.lose(device, why)
    silent_now = silent_ones()
    for device in silent_now:
        deployment.suspect(device, NOT_BACK)
    for device in set(silent_now).difference(silent_ones()):  # heard before that was told
        deployment.trust(device)
    try:
        deployment.renew()
        deployment.keep_ready(ready)
    except BaseException:
        deployment.close()
        raise


def _plan_of_what_is_found(
    search: Search, left: LeftModel, blueprint: Blueprint, sessions: Sequence[LeftSession], check: Check
) -> Plan:
    """Look for a moment, and where others cannot take over from those who do not answer, a while longer.

    Raises:
        DeviceLost: nobody can take over from who is gone.
    """
    tokens = sum(session.spec.capacity_tokens for session in sessions)
    search.go_on(RETURN_S, check)
    verdict = _verdict(search, left, blueprint, tokens, are_lost=False)
    if search.is_open and (verdict.waits_for or verdict.is_over):
        search.go_on(RETURN_AT_MOST_S - RETURN_S, check)
        verdict = _verdict(search, left, blueprint, tokens, are_lost=True)
    if verdict.is_over:
        raise DeviceLost(
            f"{', '.join(sorted(search.absent))} has not come back, and the others cannot take over: {verdict.why_not}",
            min(search.absent, default=""),
        )
    return verdict.plan


def _verdict(search: Search, left: LeftModel, blueprint: Blueprint, tokens: int, are_lost: bool) -> Verdict:
    """Who is to hold what.

    Args:
        tokens: what the sessions have reserved.
        are_lost: those who do not answer are not waited for any more.
    """
    silent = search.silent - search.gone
    away = Away(search.gone | silent) if are_lost else Away(search.gone, silent)
    return succeed(left.plan, None, away, means_of(blueprint, left.plan, (), tokens, lambda _: False))


class Search:
    """Looks for the stages of a left model, on all devices at the same time."""

    def __init__(self, transport: Transport, left: LeftModel, blueprint: Blueprint) -> None:
        self.found: dict[int, RemoteStage] = {}
        """By the index of the stage."""
        self.ready: dict[StagePlan, RemoteStage] = {}
        """Those that are kept ready."""
        self._taken: list[RemoteStage] = []
        """Of these, what a ring has taken."""
        self._transport = transport
        self._devices = [device.name for device in left.devices]
        self._left = left.stages
        self._left_ready = left.ready
        self._blueprint = blueprint
        self._gone: set[int] = set()
        """Stages that their devices have no more."""

    @property
    def absent(self) -> frozenset[str]:
        """Devices of the model that are gone, or do not answer."""
        return self.gone | self.silent

    @property
    def gone(self) -> frozenset[str]:
        """Those that are no members any more."""
        return frozenset(self._devices).difference(self._transport.members())

    @property
    def silent(self) -> frozenset[str]:
        """Those whose stages nothing is known of."""
        return frozenset(each.plan.device for index, each in enumerate(self._left) if not self._is_settled(index))

    @property
    def is_open(self) -> bool:
        """Whether something may still be found."""
        return bool(self._open())

    def go_on(self, most_s: float, check: Check) -> None:
        """Look until each is found, or its device is known to have it no more or to be gone itself; or so long."""
        deadline_s = time.monotonic() + most_s
        while (open_ones := self._open()) and time.monotonic() < deadline_s:
            check()
            looks = [on_thread("shardnet-find", partial(self._look_for, index)) for index in open_ones]
            for look in looks:
                look.result()
            if self._open():
                time.sleep(AGAIN_S)

    def look_for_ready(self) -> None:
        """Look once for what is kept ready on the devices that answer."""
        away = self.absent
        looks = [
            on_thread("shardnet-find", partial(self._find, each))
            for each in self._left_ready
            if each.plan.device not in away
        ]
        for look in looks:
            if look.exception() is None:
                self.ready[look.result().plan] = look.result()

    def take(self, units: StagePlan) -> RemoteStage | None:
        """One that is kept ready; it is the caller's from now on."""
        taken = self.ready.pop(units, None)
        if taken is not None:
            self._taken.append(taken)
        return taken

    def new_in(self, ring: Ring) -> list[RemoteStage]:
        """What of a ring was opened for it."""
        found = self._all()
        return [stage for stage in ring.members if stage not in found]

    def release(self) -> None:
        """Let go of what was found; it stays where it is."""
        for stage in self._all():
            stage.release()

    def _all(self) -> list[RemoteStage]:
        return [*self.found.values(), *self.ready.values(), *self._taken]

    def _is_settled(self, index: int) -> bool:
        return index in self.found or index in self._gone

    def _open(self) -> list[int]:
        members = self._transport.members()
        indices = range(len(self._left))
        return [each for each in indices if not self._is_settled(each) and self._left[each].plan.device in members]

    def _look_for(self, index: int) -> None:
        try:
            self.found[index] = self._find(self._left[index])
        except PlanNotInForce:
            self._gone.add(index)
        except ClusterError:
            pass  # it does not answer, or has not heard of this process yet

    def _find(self, left: LeftStage) -> RemoteStage:
        """
        Raises:
            ClusterError: it cannot be had now.
        """
        plan, places = left
        [spec] = self._blueprint.specs(places[-1][0], [plan], Plan((plan,)))
        found = RemoteStage(self._transport, spec, plan, places)
        try:
            found.look()
        except ClusterError:
            found.release()
            raise
        return found
