"""How a cluster is now, for whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import wait
from typing import Any

from shardnet.cluster.cluster import Cluster
from shardnet.coordinator.loads import Loads
from shardnet.errors import ShardnetError
from shardnet.plan import Plan
from shardnet.transport.base import Transport
from shardnet.transport.messages import DeviceDescription
from shardnet.transport.source_messages import BrokenOff, ClusterStatus, MemberStatus, SessionStatus

DESCRIBE_S = 0.5
"""How long a device may take to say what it has now."""


def status_of(
    transport: Transport,
    cluster: Cluster,
    loads: Loads,
    sources: tuple[str, ...],
    sessions: tuple[SessionStatus, ...],
) -> ClusterStatus:
    """Asks the devices that are not silent what they have now, and waits for none longer than `DESCRIBE_S`."""
    devices, suspected = cluster.devices, cluster.suspected
    described = _described(transport, [device for device in devices if device not in suspected])
    model, plan = _model_of(loads)
    members = [_member(device, device in suspected, plan, len(sessions), described.get(device)) for device in devices]
    return ClusterStatus(
        members=tuple(members),
        sources=sources,
        model=model,
        loading=loads.loading,
        why_none=loads.why_none,
        plan_version=0 if plan is None else plan.version,
        sessions=sessions,
    )


def as_object(status: ClusterStatus) -> dict[str, Any]:
    """The same as JSON has it."""
    return {
        **status._asdict(),
        "members": [member._asdict() for member in status.members],
        "sessions": [session._asdict() for session in status.sessions],
        "broken_off": [_as_object(broken) for broken in status.broken_off],
    }


def _as_object(broken: BrokenOff) -> dict[str, Any]:
    return {**broken._asdict(), "model": broken.model._asdict(), "sampling": broken.sampling._asdict()}


def _model_of(loads: Loads) -> tuple[str, Plan | None]:
    try:
        model = loads.loaded().model
    except ShardnetError:  # `why_none` says it
        return "", None
    return model.profile.name, model.plan


def _member(
    device: str, is_suspected: bool, plan: Plan | None, num_sessions: int, known: DeviceDescription | None
) -> MemberStatus:
    stages = () if plan is None else plan.stages
    units = tuple((stage.first_unit, stage.last_unit) for stage in stages if stage.device == device)
    return MemberStatus(
        name=device,
        state="suspected" if is_suspected else "present",
        units=units,
        num_sessions=num_sessions if units else 0,
        memory_bytes=None if known is None else known.rss_bytes,
        memory_usable_bytes=None if known is None else known.memory_usable_bytes,
        num_threads=None if known is None else known.num_threads,
        compute=None if known is None else known.compute,
    )


def _described(transport: Transport, devices: Sequence[str]) -> dict[str, DeviceDescription]:
    """What those say of themselves that answer at once."""
    asked = {device: transport.post(device, "describe", timeout_s=DESCRIBE_S) for device in devices}
    done, _ = wait(asked.values(), timeout=DESCRIBE_S)
    return {device: answer.result() for device, answer in asked.items() if answer in done and not answer.exception()}
