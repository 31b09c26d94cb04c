"""Every search through assignments ends with the best plan, and proves it: brute force is the oracle."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import numpy as np
import pytest
from planner_problems import every_plan, small_problems

from shardnet.planner.budget import Budget
from shardnet.planner.exact import diving
from shardnet.planner.exact.assignment import Assignment
from shardnet.planner.exact.branching import Branching
from shardnet.planner.exact.by_class import Second, Target
from shardnet.planner.exact.diving import Diving
from shardnet.planner.exact.exact import Exact
from shardnet.planner.exact.minimize import roots_of
from shardnet.planner.tables import Tables


class Search(NamedTuple):
    kind: type[Branching] | type[Diving]
    num_problems: int


@pytest.fixture(params=["branch and bound", "diving", "diving in small groups"])
def search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Search:
    if request.param == "branch and bound":
        return Search(Branching, 60)
    if request.param == "diving in small groups":  # and in coarse grains: the ways that only large problems go
        for name, value in {"MOST_AT_ONCE": 60, "GROUP": 5, "GRAIN": 7}.items():
            monkeypatch.setattr(diving, name, value)
    return Search(Diving, 16)


def test_finds_the_shortest_lap_and_proves_it(search: Search) -> None:
    num_fitting = 0
    for problem in small_problems(1, search.num_problems):
        laps = [cost.lap_s for _, cost in every_plan(problem)]
        tables, exact = Tables(problem), Exact(Tables(problem), Budget(60))
        assignment = Assignment(tables, Target(tables.seconds, tables.hop_s), roots_of(tables))
        if not assignment.allowed.any(axis=1).all():
            assert not laps
            continue
        found = search.kind(assignment, exact.beat_judge(np.inf)).run(np.inf, Budget(60))
        assert found.unseen == np.inf
        assert found.cost == pytest.approx(min(laps, default=np.inf), rel=1e-9)
        num_fitting += bool(laps)
    assert num_fitting >= search.num_problems / 2


def test_proves_a_plan_that_is_known_and_denies_a_better_one(search: Search) -> None:
    for problem in small_problems(4, 16):
        least = min((cost.lap_s for _, cost in every_plan(problem)), default=None)
        if least is None:
            continue
        tables, exact = Tables(problem), Exact(Tables(problem), Budget(60))
        assignment = Assignment(tables, Target(tables.seconds, tables.hop_s), roots_of(tables))
        none = search.kind(assignment, exact.beat_judge(np.inf)).run(least, Budget(60))
        assert none.runs is None
        assert none.unseen == np.inf
        found = search.kind(assignment, exact.beat_judge(np.inf)).run(least * (1 + 1e-6), Budget(60), enough=True)
        assert found.cost == pytest.approx(least, rel=1e-9)


def test_keeps_a_beat(search: Search) -> None:
    """The least lap of plans in which no device is busy for longer; links are the judge's business."""
    num_held = 0
    for problem in small_problems(2, search.num_problems):
        plans = every_plan(problem)
        if not plans:
            continue
        beat_s = sorted(cost.bottleneck_s for _, cost in plans)[len(plans) // 50] * (1 + 1e-12)
        exact = Exact(Tables(problem), Budget(60))
        assignment = Assignment(exact.tables, exact.beat_target(beat_s), roots_of(exact.tables))
        found = search.kind(assignment, exact.beat_judge(beat_s)).run(np.inf, Budget(60))
        expected = min(cost.lap_s for _, cost in plans if cost.bottleneck_s <= beat_s * (1 + 1e-9))
        assert found.cost == pytest.approx(expected, rel=1e-9)
        assert found.unseen == np.inf
        num_held += 1
    assert num_held >= math.ceil(search.num_problems / 3)


def test_keeps_a_second_limit(search: Search) -> None:
    """The least energy under a lap limit; batteries are limits, too."""
    num_held = 0
    for problem in small_problems(3, search.num_problems):
        plans = every_plan(problem)
        if not plans:
            continue
        limit_s = min(cost.lap_s for _, cost in plans) * random.Random(len(plans)).choice([1.0, 1.1, 1.5])
        exact = Exact(Tables(problem), Budget(60), limit_s)
        tables, kept_s = exact.tables, limit_s * (1 + 1e-9)
        watts = np.array([device.active_w for device in problem.devices], dtype=float)
        joules = np.where(np.isfinite(tables.hop_s), tables.radio_j, np.inf)
        target = Target(tables.seconds * watts, joules, second=Second(tables.seconds, tables.hop_s, kept_s))

        def judge(runs: tuple[tuple[int, int], ...], exact: Exact = exact, kept_s: float = kept_s) -> float:
            cost = exact.cost(runs)
            return np.inf if cost is None or cost.energy_j is None or cost.lap_s > kept_s else cost.energy_j

        found = search.kind(Assignment(tables, target, roots_of(tables)), judge).run(np.inf, Budget(60))
        expected = min(cost.energy_j for _, cost in plans if cost.energy_j is not None and cost.lap_s <= kept_s)
        assert found.cost == pytest.approx(expected, rel=1e-9)
        assert found.unseen == np.inf
        num_held += 1
    assert num_held >= math.ceil(search.num_problems / 3)
