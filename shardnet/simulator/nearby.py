"""What is left of a paper cluster, and where units could go: few devices of very many. Pure.

In a cluster of a thousand, hundreds come and go between two losses that matter, and each plan over all of them takes
seconds. So units go to who holds some already, or to one of the quickest of the others.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from shardnet.errors import DoesNotFit
from shardnet.planner.problem import Device, Problem
from shardnet.policy.rebalance import without_devices
from shardnet.policy.succession import Cut

MOST_OTHERS = 64
"""Devices besides those in use and those that only relay."""


def left_of(
    problem: Problem, absent: Collection[str], cut: Collection[Cut], in_use: Collection[str], is_source_apart: bool
) -> Problem:
    """The problem without some devices and links; of many others, with the quickest only.

    Args:
        in_use: devices that stay in it wherever they are there.
        is_source_apart: the prompts are with none of the devices.

    Raises:
        DoesNotFit: nobody is left, or the source is gone.
    """
    left = [device for device in problem.devices if device.name not in absent]
    if not left:
        raise DoesNotFit("no device is left.")
    if problem.source in absent and is_source_apart:
        problem = replace(problem, source=left[0].name)
    others = [device for device in left if device.memory_bytes > 0 and device.name not in {problem.source, *in_use}]
    slow = sorted(others, key=_seconds)[MOST_OTHERS:]
    gone = {*absent, *(device.name for device in slow)}
    if not cut and gone.isdisjoint(problem.index):
        return problem
    return without_devices(problem, gone, cut)


def _seconds(device: Device) -> float:
    return sum(device.unit_seconds)
