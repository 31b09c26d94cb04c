"""Annealing and branch and bound on problems on which the search by units failed. See test_searches.py for more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tight_problems import against_record, recorded

from shardnet.planner import Problem, evaluate
from shardnet.planner.budget import Budget
from shardnet.planner.exact.annealing import anneal
from shardnet.planner.exact.assignment import Assignment
from shardnet.planner.exact.branching import Branching
from shardnet.planner.exact.by_class import Second, Target
from shardnet.planner.exact.exact import Exact
from shardnet.planner.exact.minimize import roots_of
from shardnet.planner.exact.open_nodes import Nodes, OpenNodes
from shardnet.planner.tables import Tables, as_stages

DATA = Path(__file__).parents[1] / "data"


def test_what_is_left_open_is_no_better_than_it_says() -> None:
    problem = Problem.from_file(DATA / "tight_memory.json")
    exact = Exact(Tables(problem), Budget(60))
    assignment = Assignment(exact.tables, Target(exact.tables.seconds, exact.tables.hop_s), roots_of(exact.tables))
    found = Branching(assignment, exact.beat_judge(np.inf)).run(0.2844, Budget(0.2))
    assert 0.2 < found.unseen < 0.2844, "a plan of 0.2844 s is known"


def test_annealing_finds_what_the_search_by_units_did_not() -> None:
    """The search by units ended with a lap of 0.583 s here, a mixed-integer solver with 0.469 s after 8 s."""
    problem = Problem.from_file(DATA / "tight_memory.json")
    tables = Tables(problem)
    assignment = Assignment(tables, Target(tables.seconds, tables.hop_s), roots_of(tables))
    owners, laps = anneal(assignment, assignment.cost, 4000, Budget(60), np.random.default_rng(1))
    cost = evaluate(problem, as_stages(problem, assignment.runs(owners[:, 0])))
    assert cost.lap_s == pytest.approx(laps[0], rel=1e-9)
    assert cost.lap_s < 0.32
    assert (assignment.used(owners) <= 1 + 1e-8).all()
    assert (np.diff(laps) >= 0).all()


def test_open_nodes_come_back_by_their_bounds() -> None:
    chance, nodes, given = np.random.default_rng(2), OpenNodes(), []
    for _ in range(30):
        bounds = chance.random(1000)
        zeros = np.zeros(1000, dtype=np.int64)
        nodes.add(Nodes(np.zeros((1000, 2), dtype=np.uint16), np.zeros((1000, 1)), bounds, zeros, zeros))
        given.append(bounds)
    least = float(np.concatenate(given).min())
    assert nodes.least() == least
    seen = []
    while (taken := nodes.take(256, 0.5)) is not None:
        seen.append(taken.bound)
    found, expected = np.concatenate(seen), np.concatenate(given)
    assert sorted(found) == sorted(expected[expected < 0.5])
    assert found[:256].max() <= np.sort(expected)[300]


@pytest.mark.parametrize("number", [1, 5, 8, 17, 95])
def test_auto_is_as_good_as_a_mixed_integer_solver(number: int) -> None:
    """The quick ones of tests/tight_problems.py; `tests/bench/bench_planner.py --tight` compares all."""
    told = against_record(recorded()[number])
    assert not told.worse
    assert told.proven


def test_annealing_keeps_a_second_limit() -> None:
    """Joules under a lap limit: `auto` had 7.6 J here, and a plan of 4.354 J was known."""
    problem = Problem.from_file(DATA / "energy_under_a_lap.json")
    tables = Tables(problem)
    watts = np.array([device.active_w for device in problem.devices], dtype=float)
    laps = Second(tables.seconds, tables.hop_s, 0.5024)
    joules = np.where(np.isfinite(tables.hop_s), tables.radio_j, np.inf)
    assignment = Assignment(tables, Target(tables.seconds * watts, joules, second=laps), roots_of(tables))
    owners, values = anneal(assignment, assignment.cost, 6000, Budget(60), np.random.default_rng(2))
    cost = evaluate(problem, as_stages(problem, assignment.runs(owners[:, 0])))
    assert cost.lap_s <= 0.5024 * (1 + 1e-9)
    assert cost.energy_j == pytest.approx(values[0], rel=1e-9)
    assert cost.energy_j <= 4.6
