"""Four devices that can hold so many units each, for tests of who takes over and of what is kept ready."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import permutations

from shardnet.errors import DoesNotFit
from shardnet.plan import Plan, StagePlan
from shardnet.planner.problem import Device, Link, Problem, Unit
from shardnet.policy.succession import Means

NAMES = ("a", "b", "c", "d")
NUM_UNITS = 8
WEIGHT = 100


def means_of(capacity: dict[str, int], num_tokens: int = 0, most_tokens: int = 0) -> Means:
    """Devices that can hold so many units each, and beside them so many tokens."""

    def problem(absent: Collection[str], tokens: int) -> Problem:
        left = [name for name in NAMES if name not in absent]
        if not left:
            raise DoesNotFit("nobody is left")
        units = tuple(Unit(f"u{index}", WEIGHT, 0, 8) for index in range(NUM_UNITS))
        devices = tuple(Device(name, capacity[name] * WEIGHT + 1, (0.01,) * NUM_UNITS) for name in left)
        links = tuple(Link(*ends, 1e-3, 1e7) for ends in permutations(left, 2))
        return Problem(units, devices, links, left[0], pin_embedding=False)

    def has_room(stages: Sequence[StagePlan], tokens: int) -> bool:
        return tokens <= most_tokens

    return Means(problem, has_room, num_tokens, 1)


def held(plan: Plan) -> Counter[str]:
    return Counter(plan.device_of(unit) for unit in range(NUM_UNITS))
