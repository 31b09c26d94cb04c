"""Rings in this process whose units are held in bits that `quality` chose, on devices that are bound by reading
weights: those of a tiny model are too small for that, so that their times are made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from in_process_ring import RingInProcess, ring_in_process
from lasting_in_process import LastingInProcess

from shardnet.cluster import survey
from shardnet.cluster.model import Model
from shardnet.cluster.survey import Surveyor, WaitFor
from shardnet.loader import ModelFiles
from shardnet.process.cache_folder import cache_folder
from shardnet.profiling.losses import Loss, LossStore
from shardnet.profiling.measurement import DeviceMeasurement, StepTiming
from shardnet.quantised.linear import held_in

SECONDS = {"auto": 0.04, "int8": 0.02, "int4": 0.01}
"""Of a step of a unit."""


def make_up_times(patch: pytest.MonkeyPatch, *, kernels_are_timed: bool = True) -> None:
    """Devices take `SECONDS` for a step of each unit, and are measured soon.

    Args:
        kernels_are_timed: else the first kernel that suits holds a matrix.
    """
    profile = Surveyor._profile

    def slow(surveyor: Surveyor, device: str, files: ModelFiles, weights: str, wait_for: WaitFor) -> DeviceMeasurement:
        found = profile(surveyor, device, files, weights, wait_for)
        found = replace(found, units=tuple(replace(unit, steps=slowed(unit.steps, weights)) for unit in found.units))
        return found if kernels_are_timed else replace(found, kernels=())

    def slowed(steps: Sequence[StepTiming], weights: str) -> tuple[StepTiming, ...]:
        return tuple(replace(step, seconds=SECONDS[weights]) for step in steps)

    patch.setattr(Surveyor, "_profile", slow)
    patch.setattr(survey, "PROFILE_S", 0.3)
    patch.setattr(survey, "LINK_S", 0.05)


def measured(tiny: Path, int8: float, int4: float) -> None:
    """As `shardnet quality` would have it."""
    with ring_in_process(1) as ring, ring.connect() as cluster, cluster.load(tiny, split=[6]) as model:
        checkpoint = model.checkpoint
    losses = {"int8": Loss(int8, 1000, "a text"), "int4": Loss(int4, 1000, "a text")}
    LossStore(cache_folder()).save(checkpoint, losses)


def bits_of(ring: RingInProcess | LastingInProcess) -> dict[int, set[int]]:
    """How many bits the matrices of each unit have, on whichever devices; 16 where all are floats."""
    found: dict[int, set[int]] = {}
    for worker in ring.workers.values():
        for host in worker._stages.hosts():
            units = () if host.stage is None else host.stage.shard.units
            for unit in units:
                bits = {held.matrix.shape.form.bits for _, held in held_in(unit.modules)}
                found.setdefault(unit.index, set()).update(bits or {16})
    return found


def planned(model: Model) -> dict[int, set[int]]:
    """The same as the plan says."""
    return of_schemes(model.plan.unit_weights)


def of_schemes(unit_weights: Sequence[str]) -> dict[int, set[int]]:
    """The same of schemes; embedding and head have 8 where blocks have 4."""
    last = len(unit_weights) - 1
    bits = {"float32": 16, "bfloat16": 16, "int8": 8, "int4": 4}
    return {
        unit: {max(bits[scheme], 8) if unit in (0, last) else bits[scheme]} for unit, scheme in enumerate(unit_weights)
    }
