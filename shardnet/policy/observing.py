"""How fast devices are now, against what was measured of them before, from what their stages report. Pure.

All stages of a ring do the same steps: what counts is how much longer each computes than its units should take for
them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from shardnet.plan import DeviceProfile, StagePlan

Known = TypeVar("Known")
WEIGHT = 0.5
"""Of the newest look in the average."""
JUMP = 1.25
"""A look that is off by this factor or more stands for itself: the average would come too late, and stay too long."""
LEAST_STEPS = 3
"""Looks with fewer steps tell nothing."""
TELLING_S, TELLING_SHARE = 1e-3, 0.05
"""Nor does a stage that should take less than so long for a step, and less than that share of the whole ring's time:
what it spends beside its units (an embedding alone takes microseconds) says nothing of how fast its device is."""
FORGOTTEN_AFTER = 300
"""So many looks after a device was measured last, it is taken to be as fast as it should be: it may have cooled down,
and would never be used again. That is later than `rebalance.Policy.memory_s`: should it still be slow, its layers move
away again after one cool-down."""


class Work(NamedTuple):
    """What a stage did in some time."""

    stage: StagePlan
    compute_s: float
    num_steps: int
    num_tokens: int


class _Measured(NamedTuple):
    """Of all stages of a device together."""

    compute_s: float = 0.0
    expected_s: float = 0.0
    step_s: float = 0.0
    """Expected for one step of each."""

    def with_more(self, work: Work, profile: DeviceProfile) -> _Measured:
        expected_s = _expected_s(work, profile)
        return _Measured(
            self.compute_s + work.compute_s, self.expected_s + expected_s, self.step_s + expected_s / work.num_steps
        )

    @property
    def ratio(self) -> float:
        return self.compute_s / max(self.expected_s, 1e-9)


@dataclass(frozen=True)
class Pace:
    """How much longer each device takes than was measured of it, averaged over the last looks (EWMA)."""

    ratios: Mapping[str, float] = field(default_factory=dict)
    usual: Mapping[str, float] = field(default_factory=dict)
    """What they were when each was seen for the first time."""
    unseen: Mapping[str, int] = field(default_factory=dict)
    """How many looks ago each was measured."""

    def seen(self, works: Sequence[Work], profiles: Mapping[str, DeviceProfile]) -> Pace:
        """With one more look."""
        measured: defaultdict[str, _Measured] = defaultdict(_Measured)
        for work in works:
            device = work.stage.device
            if work.num_steps >= LEAST_STEPS and device in profiles:
                measured[device] = measured[device].with_more(work, profiles[device])
        least_s = min(TELLING_S, TELLING_SHARE * sum(each.step_s for each in measured.values()))
        telling = {device: each.ratio for device, each in measured.items() if each.step_s >= least_s}
        unseen = {device: 0 if device in telling else self.unseen[device] + 1 for device in {**self.unseen, **telling}}
        unseen = {device: looks for device, looks in unseen.items() if looks < FORGOTTEN_AFTER}
        ratios = {device: ratio for device, ratio in self.ratios.items() if device in unseen}
        for device, ratio in telling.items():
            before = ratios.get(device, ratio)
            is_jump = max(ratio, before) >= JUMP * min(ratio, before)
            ratios[device] = ratio if is_jump else ratio + (1 - WEIGHT) * (before - ratio)
        return Pace(ratios, {**ratios, **self.usual}, unseen)

    def without(self, devices: Collection[str]) -> Pace:
        """The same where others have come under these names, of which nothing is known."""

        def others(known: Mapping[str, Known]) -> dict[str, Known]:
            return {device: each for device, each in known.items() if device not in devices}

        return Pace(others(self.ratios), others(self.usual), others(self.unseen))

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
