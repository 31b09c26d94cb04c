"""How fast devices are now, against what was measured of them before, from what their stages report. Pure.

All stages of a ring do the same steps: what counts is how much longer each computes than its units should take for
them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shardnet.plan import DeviceProfile, StagePlan

WEIGHT = 0.5
"""Of the newest look in the average."""
JUMP = 1.25
"""A look that is off by this factor or more stands for itself: the average would come too late, and stay too long."""
LEAST_STEPS = 3
"""Looks with fewer steps tell nothing."""


class Work(NamedTuple):
    """What a stage did in some time."""

    stage: StagePlan
    compute_s: float
    num_steps: int
    num_tokens: int


@dataclass(frozen=True)
class Pace:
    """How much longer each device takes than was measured of it, averaged over the last looks (EWMA)."""

    ratios: Mapping[str, float] = field(default_factory=dict)
    usual: Mapping[str, float] = field(default_factory=dict)
    """What they were when each was seen for the first time."""

    def seen(self, works: Sequence[Work], profiles: Mapping[str, DeviceProfile]) -> Pace:
        """With one more look."""
        measured: defaultdict[str, float] = defaultdict(float)
        expected: defaultdict[str, float] = defaultdict(float)
        for work in works:
            if work.num_steps >= LEAST_STEPS and work.stage.device in profiles:
                measured[work.stage.device] += work.compute_s
                expected[work.stage.device] += _expected_s(work, profiles[work.stage.device])
        ratios = dict(self.ratios)
        for device, seconds in measured.items():
            ratio = seconds / max(expected[device], 1e-9)
            before = ratios.get(device, ratio)
            is_jump = max(ratio, before) >= JUMP * min(ratio, before)
            ratios[device] = ratio if is_jump else ratio + (1 - WEIGHT) * (before - ratio)
        return Pace(ratios, {**ratios, **self.usual})

    def slowdown(self, devices: Iterable[str]) -> dict[str, float]:
        """By what factor each device is slower than was measured of it.

        What is not in use is taken to be slower than it should be by as much as the device that is least so: what makes
        all of them slower than they should be (a machine that others use, too, small models) speaks for no other plan.
        """
        least = min(self.usual.values(), default=1.0)
        return {device: max(self.ratios.get(device, least), _LEAST) for device in devices}


_LEAST = 0.1


def _expected_s(work: Work, profile: DeviceProfile) -> float:
    """Seconds for the steps: reading the weights once in each, and computing for each token beyond the first."""
    units = slice(work.stage.first_unit, work.stage.last_unit + 1)
    num_more = max(work.num_tokens - work.num_steps, 0)
    return work.num_steps * sum(profile.decode_unit_s[units]) + num_more * sum(profile.prefill_unit_s_per_token[units])
