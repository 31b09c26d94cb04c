"""HiGHS as one of the methods of `auto`: its programme against brute force, and problems on which `auto` was worse."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from planner_problems import every_plan, random_problem
from tight_problems import against_record, recorded, tight_case

from shardnet.planner import budget
from shardnet.planner.budget import Budget
from shardnet.planner.costs import Cost, broken_limit, evaluate
from shardnet.planner.exact import highs
from shardnet.planner.exact.by_class import Second, Target
from shardnet.planner.exact.minimize import roots_of
from shardnet.planner.exact.programme import Programme
from shardnet.planner.problem import Problem
from shardnet.planner.tables import Tables, stages_of

pytestmark = pytest.mark.skipif(not highs.installed(), reason="highspy is not installed (the extra `plan`)")

NUM_PROBLEMS, NUM_IN_THE_SUITE = 60, 10


def small_problem(number: int) -> tuple[Problem, list[Cost]]:
    rng = random.Random(4_007 * number + 3)
    devices, units = rng.choice([(2, 8), (3, 6), (4, 5)])
    problem = random_problem(rng, devices, units, rng.choice((1.02, 1.05, 1.2)))
    return problem, [cost for _, cost in every_plan(problem)]


def held(problem: Problem, answer: highs.Answer) -> Cost:
    assert answer.owners is not None
    stages = stages_of(problem, answer.owners)
    cost = evaluate(problem, stages)
    assert broken_limit(problem, stages, cost) is None
    return cost


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, marks=pytest.mark.long if n >= NUM_IN_THE_SUITE else ()) for n in range(NUM_PROBLEMS)],
)
def test_the_programme_equals_brute_force(number: int) -> None:
    """Latency, energy under a lap limit, the least beat, and the least lap at a beat; links and batteries count."""
    problem, costs = small_problem(number)
    tables, rng = Tables(problem), random.Random(number)
    roots, latency = roots_of(tables), Target(tables.seconds, tables.hop_s)
    answer = highs.solve(Programme.of(tables, latency, roots), Budget(60))
    if not costs:
        assert answer.owners is None
        assert answer.bound == np.inf
        return
    least_s = min(cost.lap_s for cost in costs)
    assert held(problem, answer).lap_s == pytest.approx(least_s, rel=1e-9)
    assert least_s * (1 - 2e-9) <= answer.bound <= least_s

    limit_s = least_s * rng.choice((1.0, 1.1, 1.5)) * (1 + 1e-9)
    watts = np.array([device.active_w for device in problem.devices], dtype=float)
    joules = np.where(np.isfinite(tables.hop_s), tables.radio_j, np.inf)
    energy = Target(tables.seconds * watts, joules, second=Second(tables.seconds, tables.hop_s, limit_s))
    answer = highs.solve(Programme.of(tables, energy, roots), Budget(60))
    least_j = min(cost.energy_j or 0.0 for cost in costs if cost.lap_s <= limit_s)
    assert held(problem, answer).energy_j == pytest.approx(least_j, rel=1e-9)
    assert least_j * (1 - 2e-9) <= answer.bound <= least_j

    in_flight, programme = rng.choice((1, 2, 8)), Programme(tables, roots)
    programme.seek_beat(in_flight)
    answer = highs.solve(programme, Budget(60))
    beat_s = min(1 / cost.rate(in_flight) for cost in costs)
    assert 1 / held(problem, answer).rate(in_flight) == pytest.approx(beat_s, rel=1e-6)
    assert beat_s * (1 - 1e-6) <= answer.bound <= beat_s * (1 + 1e-9)

    busy_s = min(cost.bottleneck_s for cost in costs)
    programme = Programme.of(tables, Target(tables.seconds, tables.hop_s, busy_s * 1.1), roots)
    answer = highs.solve(programme, Budget(60))
    kept = [cost.lap_s for cost in costs if cost.bottleneck_s <= busy_s * 1.1]
    assert held(problem, answer).lap_s == pytest.approx(min(kept), rel=1e-9)
    none = highs.solve(Programme.of(tables, Target(tables.seconds, tables.hop_s, busy_s * 0.9), roots), Budget(60))
    assert none.owners is None
    assert none.bound == np.inf


def test_a_known_plan_is_a_start_and_a_bound_holds_when_time_is_over() -> None:
    row = recorded()[20]
    tables = Tables(tight_case(20).problem)
    programme = Programme.of(tables, Target(tables.seconds, tables.hop_s), roots_of(tables))
    answer = highs.solve(programme, Budget(0.5), row["owners"])
    assert held(tables.problem, answer).lap_s <= row["lap_s"] * (1 + 1e-9)
    assert answer.bound < 0.2205, "a plan of 0.2205 s is known"


@pytest.mark.long
@pytest.mark.parametrize("number", [12, 14, 72, 74])
def test_auto_is_as_good_as_the_solver_alone(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By 1.0% and 0.3% of the joules, by 6.7% and 1.1% of the rate it was not, before HiGHS was one of its methods."""
    monkeypatch.setattr(budget, "MOST_STRETCH", 100.0)
    assert not against_record(recorded()[number]).worse


def test_the_solver_runs_beside_a_search_and_tells_what_it_finds() -> None:
    tables = Tables(tight_case(20).problem)
    latency = Target(tables.seconds, tables.hop_s)
    solver = highs.Beside(Programme.of(tables, latency, roots_of(tables)), 600.0, recorded()[20]["owners"])
    found = None
    while found is None and solver.runs:
        time.sleep(0.01)
        found = solver.found()
    answer = solver.end()
    assert not solver.runs
    assert found is not None
    assert held(tables.problem, answer).lap_s <= recorded()[20]["lap_s"] * (1 + 1e-9)
    assert answer.bound < 0.2205, "a plan of 0.2205 s is known"


def test_an_error_beside_a_search_is_raised_where_the_answer_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(highs, "solve", fail)
    tables = Tables(small_problem(0)[0])
    solver = highs.Beside(Programme(tables, roots_of(tables)), 1.0)
    with pytest.raises(MemoryError):
        solver.end()


def test_auto_plans_without_highspy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(highs, "installed", lambda: False)
    row = recorded()[95]
    told = against_record(row)
    assert told.proven
    assert not told.worse


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Not even its greeting: `--json` is to be all that is printed."""
    tables = Tables(small_problem(0)[0])
    highs.solve(Programme.of(tables, Target(tables.seconds, tables.hop_s), roots_of(tables)), Budget(10))
    assert capfd.readouterr() == ("", "")
