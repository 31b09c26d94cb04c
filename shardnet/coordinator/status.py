"""How a cluster is now, for whoever asks."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, NamedTuple

from shardnet.cluster.deployment import Deployment
from shardnet.cluster.remote_stage import RemoteStage
from shardnet.cluster.ring import Ring
from shardnet.coordinator.loads import Loads
from shardnet.coordinator.recent_work import Look, RecentWork
from shardnet.errors import ShardnetError
from shardnet.plan import Plan
from shardnet.profiling.power import SANE_C
from shardnet.timeline.timeline import Shares
from shardnet.transport.base import Transport
from shardnet.transport.device_messages import DeviceDescription
from shardnet.transport.messages import StageAccount
from shardnet.transport.source_messages import BrokenOff, ClusterStatus, MemberStatus, SessionStatus, StageStatus

PERCENT, SHARE = (0.0, 100.0), (-0.01, 1.01)
DESCRIBE_S = 0.5
"""How long a device may take to say what it has now."""


class Present(NamedTuple):
    """Who is there."""

    devices: Sequence[str]
    suspected: Collection[str]
    paused: Mapping[str, str]
    """Each with the reason."""

    def member(self, device: str) -> MemberStatus:
        """What is known of a device without asking it."""
        if device in self.paused:
            return MemberStatus(device, "paused", (), 0, None, None, None, why=self.paused[device])
        return MemberStatus(device, "suspected" if device in self.suspected else "present", (), 0, None, None, None)


def status_of(
    transport: Transport,
    there: Present,
    loads: Loads,
    sources: tuple[str, ...],
    sessions: tuple[SessionStatus, ...],
    work: RecentWork,
    num_tokens: int,
) -> ClusterStatus:
    """Asks the devices that are not silent what they have now, and waits for none longer than `DESCRIBE_S`.

    Args:
        num_tokens: of all answers so far.
    """
    model, plan, ring = _model_of(loads)
    present = () if ring is None else tuple(ring.stages)
    accounts = _asked_accounts(present, there.suspected)
    described = _described(transport, [device for device in there.devices if device not in there.suspected], accounts)
    told = {index: each.result() for index, each in accounts.items() if each.done() and not each.exception()}
    totals = tuple(told[index].totals if index in told else None for index in range(len(present)))
    tokens_per_s, shares = work.look(ring, Look(time.monotonic(), num_tokens, totals))
    stages = tuple(_stage(stage, share) for stage, share in zip(present, shares, strict=True))
    members = [
        _with_units(_described_as(there.member(device), described.get(device)), plan, len(sessions))
        for device in there.devices
    ]
    return ClusterStatus(
        members=tuple(members),
        sources=sources,
        model=model,
        loading=loads.loading,
        why_none=loads.why_none,
        plan_version=0 if plan is None else plan.version,
        sessions=sessions,
        stages=stages,
        tokens_per_s=tokens_per_s,
    )


def as_object(status: ClusterStatus) -> dict[str, Any]:
    """The same as JSON has it."""
    return {
        **status._asdict(),
        "members": [member._asdict() for member in status.members],
        "sessions": [session._asdict() for session in status.sessions],
        "stages": [stage._asdict() for stage in status.stages],
        "events": [event._asdict() for event in status.events],
        "broken_off": [_as_object(broken) for broken in status.broken_off],
    }


def _as_object(broken: BrokenOff) -> dict[str, Any]:
    return {**broken._asdict(), "model": broken.model._asdict(), "sampling": broken.sampling._asdict()}


def _model_of(loads: Loads) -> tuple[str, Plan | None, Ring | None]:
    try:
        model = loads.loaded().model
    except ShardnetError:  # `why_none` says it
        return "", None, None
    deployment = model.deployment
    assert isinstance(deployment, Deployment), "this process coordinates the model"
    rings = deployment.rings
    return model.profile.name, model.plan, None if rings is None else rings.all[-1]


def _asked_accounts(stages: Sequence[RemoteStage], suspected: Collection[str]) -> dict[int, Future[StageAccount]]:
    """What they have done, by their places."""
    asked: dict[int, Future[StageAccount]] = {}
    for index, stage in enumerate(stages):
        if stage.plan.device not in suspected:
            with suppress(ShardnetError):  # it is gone
                asked[index] = stage.account()
    return asked


def _stage(stage: RemoteStage, share: Shares | None) -> StageStatus:
    shares = (None, None, None) if share is None else (share.compute, share.wire, share.idle)
    compute, wire, idle = (_within(SHARE, each) for each in shares)
    plan = stage.plan
    return StageStatus(plan.device, plan.first_unit, plan.last_unit, compute, wire, idle, stage.sent_as)


def _described_as(member: MemberStatus, known: DeviceDescription | None) -> MemberStatus:
    if known is None:
        return member
    return member._replace(
        memory_bytes=known.rss_bytes,
        memory_usable_bytes=known.memory_usable_bytes,
        num_threads=known.num_threads,
        compute=known.compute,
        battery_percent=_within(PERCENT, known.battery_percent),
        is_charging=known.is_charging,
        temperature_c=_within(SANE_C, known.temperature_c),
    )


def _within(bounds: tuple[float, float], told: float | None) -> float | None:
    """A number that can be meant, or None: what a device says may be NaN, which no JSON has, or beyond all bounds."""
    return told if told is not None and bounds[0] <= told <= bounds[1] else None


def _with_units(member: MemberStatus, plan: Plan | None, num_sessions: int) -> MemberStatus:
    stages = () if plan is None else plan.stages
    units = tuple((stage.first_unit, stage.last_unit) for stage in stages if stage.device == member.name)
    return member._replace(units=units, num_sessions=num_sessions if units else 0)


def _described(
    transport: Transport, devices: Sequence[str], accounts: Mapping[int, Future[StageAccount]]
) -> dict[str, DeviceDescription]:
    """What those say of themselves that answer at once. Waits for the accounts, too."""
    asked = {device: transport.post(device, "describe", timeout_s=DESCRIBE_S) for device in devices}
    done, _ = wait([*asked.values(), *accounts.values()], timeout=DESCRIBE_S)
    return {device: answer.result() for device, answer in asked.items() if answer in done and not answer.exception()}
