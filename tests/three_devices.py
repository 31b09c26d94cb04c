"""Three devices of different speeds, and the best plan for them: small enough to be counted through."""

from __future__ import annotations

from collections.abc import Iterable

from shardnet.errors import DoesNotFit
from shardnet.plan import Link, Plan, StagePlan, stages_from_counts
from shardnet.planner.costs import evaluate, fits
from shardnet.planner.problem import Device, Problem, Unit

UNITS = tuple(Unit(f"u{i}", 100e6, 1000, 2000) for i in range(8))


def three_devices(memory_units: int = 8) -> Problem:
    """The source `a`, and two others: `b` fast, `c` of medium speed. Prefill is five times faster than decode."""
    speeds = {"a": 4e-3, "b": 1e-3, "c": 2e-3}
    devices = tuple(
        Device(name, memory_units * 101e6, (s,) * 8, prefill_unit_seconds=(s / 5,) * 8) for name, s in speeds.items()
    )
    links = tuple(Link(x, y, 1e-3, 10e6) for x in speeds for y in speeds if x != y)
    return Problem(UNITS, devices, links, "a", context_tokens=1000)


def best_plan(problem: Problem) -> Plan:
    """Brute force over contiguous splits that begin on the source."""
    others = [device.name for device in problem.devices if device.name != problem.source]
    found = []
    for order in ([problem.source, *others], [problem.source, *others[::-1]]):
        for first in range(1, problem.num_units + 1):
            for second in range(problem.num_units - first + 1):
                counts = [first, second, problem.num_units - first - second][: len(order)]
                if sum(counts) < problem.num_units:
                    continue
                found.append(stages_from_counts(order, counts + [0] * (len(order) - len(counts))))
    return quickest(problem, found)


def quickest(problem: Problem, candidates: Iterable[tuple[StagePlan, ...]]) -> Plan:
    """Of those that fit.

    Raises:
        DoesNotFit: none does.
    """
    fitting = [stages for stages in candidates if fits(problem, stages)]
    if not fitting:
        raise DoesNotFit("nothing fits")
    return Plan(min(fitting, key=lambda stages: evaluate(problem, stages).lap_s))


AB = Plan(stages_from_counts(["a", "b"], [1, 7]))
