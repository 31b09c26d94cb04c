"""Which device gets which units of a model that is about to be loaded, and how much KV memory each may use.

Asks the devices, decides nothing itself: the split comes from the caller or from `shardnet.planner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shardnet.errors import BadRequest, DoesNotFit
from shardnet.plan import ModelProfile, Plan, stages_from_counts
from shardnet.planner.spread import spread_counts
from shardnet.transport.base import Transport

ASK_S = 60.0
MEMORY_SHARE = 0.8
"""Of the memory that a device has free, the part that shardnet plans with."""
LEAST_KV_TOKENS = 64
"""A placement must leave room for at least so many tokens of one session."""


def place(
    transport: Transport,
    profile: ModelProfile,
    devices: Sequence[str],
    *,
    plan_version: int,
    split: Sequence[int] | None,
    context_tokens: int,
    kv_memory_bytes: int | None,
) -> tuple[Plan, list[int]]:
    """The plan, and the KV budget of each of its stages in bytes.

    Args:
        split: units for each device; None spreads them by measured speed and memory.
        kv_memory_bytes: KV budget of every stage; None gives each what its device can spare.

    Raises:
        BadRequest: the split does not name every unit, or there are more devices than units.
        DoesNotFit: the devices cannot hold the weights and the KV cache of one short session.
    """
    free_bytes = _free_bytes(transport, devices)
    kv_tokens = min(context_tokens, LEAST_KV_TOKENS)
    unit_bytes = [
        unit.weight_bytes + (0 if kv_memory_bytes else unit.kv_bytes_per_token * kv_tokens) for unit in profile.units
    ]
    if split is None:
        speeds = [transport.call(device, "measure_speed", timeout_s=ASK_S).result() for device in devices]
        seconds = [[_bytes_of_work(profile, unit) / speed for unit in range(profile.num_units)] for speed in speeds]
        counts, method = spread_counts(seconds, unit_bytes, free_bytes), "spread"
    else:
        counts, method = _checked(split, profile, devices), "given"
    plan = Plan(stages_from_counts(list(devices), counts), version=plan_version, method=method)
    free_of = dict(zip(devices, free_bytes, strict=True))
    budgets = []
    for stage in plan.stages:
        weights = sum(unit.weight_bytes for unit in profile.units[stage.first_unit : stage.last_unit + 1])
        needed = sum(unit_bytes[stage.first_unit : stage.last_unit + 1]) + (kv_memory_bytes or 0)
        if needed > free_of[stage.device]:
            raise DoesNotFit(
                f"{stage.device} needs {needed / 2**30:.2f} GiB (units {stage.first_unit} to {stage.last_unit} and "
                f"their KV cache), but has {free_of[stage.device] / 2**30:.2f} GiB free. Give it fewer units, add a "
                "device, or use a smaller dtype."
            )
        budgets.append(kv_memory_bytes or free_of[stage.device] - weights)
    return plan, budgets


def _free_bytes(transport: Transport, devices: Sequence[str]) -> list[int]:
    """What each device may use. Devices on one machine share its memory, so each plans with its part."""
    asked = [transport.call(device, "describe", timeout_s=ASK_S) for device in devices]
    answers: list[dict[str, Any]] = [answer.result() for answer in asked]
    hosts = [answer["host"] for answer in answers]
    return [int(MEMORY_SHARE * a["memory_available_bytes"] / hosts.count(a["host"])) for a in answers]


def _bytes_of_work(profile: ModelProfile, unit: int) -> float:
    """Bytes that one decode step of a unit reads: its weights, but of an embedding only a row."""
    sizes = profile.units[unit]
    return sizes.output_bytes if unit == 0 else sizes.weight_bytes


def _checked(split: Sequence[int], profile: ModelProfile, devices: Sequence[str]) -> list[int]:
    if len(split) != len(devices):
        raise BadRequest(f"the split names {len(split)} devices, but there are {len(devices)}.")
    if any(count < 0 for count in split) or sum(split) != profile.num_units:
        raise BadRequest(
            f"the split must give all {profile.num_units} units of {profile.name} (embedding, blocks, head) away, "
            f"but {'+'.join(map(str, split))} = {sum(split)}."
        )
    return list(split)
