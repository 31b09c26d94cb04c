"""Which units are loaded beside the ring's own, and from when on: for a change under way, or kept ready. On paper.

As `cluster.standby` has it: what is kept ready is loaded one part after the other, what a change needs on all devices
at once. What was loaded for a change that was broken off stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from shardnet.plan import StagePlan
from shardnet.planner.problem import Problem

GIB = 2**30


class Weights:
    """Of one run.

    Args:
        load_bytes_per_s: by device, from its own storage.
        default_bytes_per_s: of those that are not in it.
    """

    def __init__(self, problem: Problem, load_bytes_per_s: Mapping[str, float], default_bytes_per_s: float) -> None:
        self.unit_bytes = [round(unit.weight_bytes) for unit in problem.units]
        self._problem = problem
        self._rates, self._default = load_bytes_per_s, default_bytes_per_s
        self._there_s: dict[StagePlan, float] = {}
        """When each part is, or will be, there."""

    def is_there(self, part: StagePlan, now_s: float) -> bool:
        return self._there_s.get(part, float("inf")) <= now_s

    def load(self, parts: Sequence[StagePlan], now_s: float) -> float:
        """Have these loaded, all devices at once. Returns when the last one is there."""
        free_s: dict[str, float] = {}
        for part in parts:
            if part not in self._there_s:
                free_s[part.device] = free_s.get(part.device, now_s) + self._seconds(part)
                self._there_s[part] = free_s[part.device]
        return max([now_s, *(self._there_s[part] for part in parts)])

    def keep(self, wanted: Sequence[StagePlan], now_s: float) -> None:
        """Have these ready, one after the other, and nothing else."""
        self._there_s = {part: at_s for part, at_s in self._there_s.items() if part in wanted}
        for part in wanted:
            if part not in self._there_s:
                now_s += self._seconds(part)
                self._there_s[part] = now_s

    def take(self, parts: Collection[StagePlan]) -> None:
        """These are the ring's from now on."""
        for part in parts:
            self._there_s.pop(part, None)

    def lose(self, device: str) -> None:
        """A device has nothing any more."""
        self._there_s = {part: at_s for part, at_s in self._there_s.items() if part.device != device}

    def spare_bytes(self, stages: Sequence[StagePlan], most_gib: float | None) -> dict[str, int]:
        """What each device may give to keep units ready for others: half of what the stages leave free, at most."""
        free = {device.name: device.memory_bytes for device in self._problem.devices}
        for stage in stages:
            free[stage.device] -= sum(self._problem.unit_memory_bytes[stage.first_unit : stage.last_unit + 1])
        most_bytes = float("inf") if most_gib is None else most_gib * GIB
        return {name: int(min(max(left, 0.0) / 2, most_bytes)) for name, left in free.items()}

    def _seconds(self, part: StagePlan) -> float:
        size = sum(self.unit_bytes[part.first_unit : part.last_unit + 1])
        return size / self._rates.get(part.device, self._default)
