"""Which device gets which units of a model that is about to be loaded, and how much memory its sessions may use there.

Turns what is known of devices and model into the planner's problem, and its answer into a plan. Decides nothing itself:
the split comes from the caller or from `shardnet.planner`. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from shardnet.errors import BadRequest, DoesNotFit
from shardnet.foreign.quoting import counted, quoted, shortened
from shardnet.plan import DeviceProfile, Link, ModelProfile, Plan, stages_from_counts
from shardnet.planner import Problem, evaluate
from shardnet.planner.names import SPREAD
from shardnet.planner.problem import Device, Unit
from shardnet.planner.rules.spread import spread_counts

LEAST_KV_TOKENS = 64
"""A placement must leave room for at least so many tokens of one session."""
TOKEN_BYTES = 8
KEPT_IDS = 2
"""Of each token, those that have come and those that were sampled, where a stage is the first and the last."""
MOST_NAMED = 4
"""Devices whose memory an error tells."""
PLANNING_S = 8.0
"""The longest search in a small cluster: a model waits to be loaded."""


def problem_of(
    profile: ModelProfile,
    devices: Sequence[DeviceProfile],
    links: Sequence[Link],
    *,
    context_tokens: int,
    kv_memory_bytes: int | None,
    private_to: str | None = None,
) -> Problem:
    """The placement problem of a running cluster. The coordinator holds no shard, and stages send straight to each
    other.

    Args:
        kv_memory_bytes: of each device, set aside for KV caches and for what stages keep beside them; None leaves room
            for one session of `context_tokens`.
        private_to: the device that is to hold embedding and head; None where any may.

    Raises:
        DoesNotFit: that device is not there.
    """
    if private_to is not None and private_to not in {device.name for device in devices}:
        raise DoesNotFit(
            f"The text is to stay on {shortened(private_to)}, which is not there. Let it join, or leave private_to out."
        )
    aside_bytes = kv_memory_bytes or context_tokens * kept_bytes_per_token(profile)
    return Problem(
        units=tuple(
            Unit(
                unit.name,
                unit.weight_bytes,
                0 if kv_memory_bytes else unit.kv_bytes_per_token,
                unit.output_bytes,
            )
            for unit in profile.units
        ),
        devices=tuple(
            Device(
                device.name,
                max(device.memory_bytes - aside_bytes, 0),
                device.decode_unit_s,
                device.prefill_unit_s_per_token,
                active_w=device.active_w,
            )
            for device in devices
        ),
        links=tuple(links),
        source=private_to or devices[0].name,
        pin_embedding=private_to is not None,
        pin_head=private_to is not None,
        return_bytes=TOKEN_BYTES,
        context_tokens=context_tokens,
        relays=False,
    )


def kept_bytes_per_token(profile: ModelProfile) -> int:
    """What a stage keeps of each token beside its KV cache, at most: what it sends, and ids."""
    return max(unit.output_bytes for unit in profile.units) + KEPT_IDS * TOKEN_BYTES


@contextmanager
def setting_aside(
    kv_memory_bytes: int | None, profile: ModelProfile, devices: Sequence[DeviceProfile]
) -> Iterator[None]:
    """In this block, what does not fit is said of all memory, of which a caller may have set some aside for KV caches.

    Raises:
        DoesNotFit: names what was set aside.
    """
    try:
        yield
    except DoesNotFit as error:
        if kv_memory_bytes is None:
            raise
        weights = sum(unit.weight_bytes for unit in profile.units)
        free = ", ".join(f"{device.name} has {device.memory_bytes / 2**30:.2f} GiB" for device in devices[:MOST_NAMED])
        more = ", ..." if len(devices) > MOST_NAMED else ""
        raise DoesNotFit(
            f"{profile.name} needs {weights / 2**30:.2f} GiB for its weights beside the {kv_memory_bytes / 2**30:.2f} "
            f"GiB that kv_memory_bytes sets aside on each device: {free}{more} free. Set less aside, leave it out, or "
            "add a device."
        ) from error


def place(
    problem: Problem, method: str, objective: str, in_flight: int, version: int, most_s: float = PLANNING_S
) -> Plan:
    """The plan of a method for the cluster.

    Args:
        method: one of `planner.names.PLACEMENTS`; "spread" uses every device, in their order, and makes the slowest
            stage fast.
        most_s: how long it may be looked for.

    Raises:
        BadRequest: more devices than units.
        DoesNotFit: the devices cannot hold the model.
    """
    if method != SPREAD:
        # here, so that commands say what they take without it
        from shardnet.planner.planning import plan, usual_limit_s

        limit_s = usual_limit_s(problem, most_s)
        made = plan(problem, objective, method, in_flight, time_limit_s=limit_s)
        return replace(made, version=version)
    counts = spread_counts(
        [device.unit_seconds for device in problem.devices],
        problem.unit_memory_bytes,
        [device.memory_bytes for device in problem.devices],
    )
    stages = stages_from_counts([device.name for device in problem.devices], counts)
    cost = evaluate(problem, stages)
    return Plan(
        stages,
        version=version,
        method=SPREAD,
        objective=objective,
        lap_s=cost.lap_s,
        bottleneck_s=cost.bottleneck_s,
        rate_per_s=cost.rate(in_flight),
        why="every device is in use, as asked; the placement auto would leave out those that do not help",
    )


def check_num_devices(num_devices: int, num_units: int, model: str) -> None:
    """
    Raises:
        BadRequest: there are more devices than units, and each is to get at least one.
    """
    if num_devices > num_units:
        raise BadRequest(
            f"{num_devices} devices are more than the {counted(num_units, 'units')} of {model} (embedding, blocks, "
            f"head). Use at most {counted(num_units, 'devices')}."
        )


def check_split(split: Sequence[int], num_devices: int, num_units: int, model: str) -> None:
    """
    Raises:
        BadRequest: the split does not name every device, or does not give every unit away.
    """
    if len(split) != num_devices:
        raise BadRequest(f"the split names {counted(len(split), 'devices')}, but there are {num_devices}.")
    if any(count < 0 for count in split) or sum(split) != num_units:
        total = quoted(sum(split))
        given = f"{shortened('+'.join(map(quoted, split)))} = {total}" if len(split) > 1 else f"it gives {total}"
        raise BadRequest(
            f"the split must give all {num_units} units of {model} (embedding, blocks, head) away, but {given}."
        )


def given_plan(split: Sequence[int], profile: ModelProfile, devices: Sequence[str], version: int) -> Plan:
    """The plan that the caller spelled out: units for each device.

    Raises:
        BadRequest: the split does not name every device, or does not give every unit away.
    """
    check_split(split, len(devices), profile.num_units, profile.name)
    return Plan(stages_from_counts(list(devices), list(split)), version=version, method="given")


def room_of(profile: DeviceProfile) -> int:
    """How many stages can compute at the same time on a device's host: as many as its cores have room for."""
    return max(1, profile.host_cores // profile.num_threads)


def num_at_once(plan: Plan, devices: Sequence[DeviceProfile]) -> int:
    """How many stages of the plan can compute at the same time, see `room_of`."""
    profile_of = {device.name: device for device in devices}
    stages_of = Counter(profile_of[stage.device].host for stage in plan.stages)
    rooms = {profile_of[stage.device].host: room_of(profile_of[stage.device]) for stage in plan.stages}
    return sum(min(stages, rooms[host]) for host, stages in stages_of.items())


def kv_budgets(
    plan: Plan, profile: ModelProfile, devices: Sequence[DeviceProfile], kv_memory_bytes: int | None
) -> list[int]:
    """Bytes that the sessions of each stage's device may take, for KV caches and what is kept beside; its stages share
    them.

    Raises:
        DoesNotFit: a device cannot hold its weights and the KV cache of one short session.
    """
    free_of = {device.name: device.memory_bytes for device in devices}
    held_of = dict.fromkeys(free_of, 0)
    for stage in plan.stages:
        units = profile.units[stage.first_unit : stage.last_unit + 1]
        held_of[stage.device] += sum(unit.weight_bytes for unit in units)
        kv_bytes_per_token = sum(unit.kv_bytes_per_token for unit in units)
        least_kv_bytes = LEAST_KV_TOKENS * (kv_bytes_per_token + kept_bytes_per_token(profile))
        needed = held_of[stage.device] + (kv_memory_bytes or least_kv_bytes)
        if needed > free_of[stage.device]:
            kv, ways = "their KV cache", "Give it fewer units"
            if kv_memory_bytes is not None:
                kv = f"the {kv_memory_bytes / 2**30:.2f} GiB of kv_memory_bytes"
                ways = "Set less aside, give it fewer units"
            raise DoesNotFit(
                f"{stage.device} needs {needed / 2**30:.2f} GiB (units {stage.first_unit} to {stage.last_unit} and "
                f"{kv}), but has {free_of[stage.device] / 2**30:.2f} GiB free. {ways}, add "
                "a device, or use a smaller dtype."
            )
    spare_of = {name: free_of[name] - held_of[name] for name in free_of}
    return [kv_memory_bytes or spare_of[stage.device] for stage in plan.stages]
