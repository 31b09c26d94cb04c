from __future__ import annotations

from dataclasses import replace

import pytest
from three_devices import AB, best_plan, three_devices

from shardnet.plan import Plan, StagePlan, stages_from_counts
from shardnet.planner.costs import broken_limit, evaluate
from shardnet.planner.least_moves import keep_places, repairs
from shardnet.planner.problem import Problem
from shardnet.policy.rebalance import Observed, moves, replace_lost, without_devices
from shardnet.simulator.what_if import with_twin


def with_twins() -> Problem:
    """`a`, and three devices that are alike."""
    problem = three_devices(memory_units=4)
    alike = replace(problem.devices[1], name="c")
    problem = replace(problem, devices=(problem.devices[0], problem.devices[1], alike))
    return with_twin(problem, "c")


def test_alike_devices_keep_what_they_hold() -> None:
    problem = with_twins()
    old = Plan(stages_from_counts(["a", "b", "c", "c-twin"], [1, 3, 2, 2]))
    new = Plan(stages_from_counts(["a", "c", "c-twin", "b"], [1, 3, 3, 1]))
    kept = keep_places(old, new, problem)
    assert kept.devices == ("a", "b", "c", "c-twin")
    assert evaluate(problem, kept.stages).lap_s == pytest.approx(evaluate(problem, new.stages).lap_s)
    assert len(moves(old, kept)) == 1 < len(moves(old, new))


def test_devices_that_differ_are_not_swapped() -> None:
    problem = three_devices()
    new = Plan(stages_from_counts(["a", "c", "b"], [1, 3, 4]))
    old = Plan(stages_from_counts(["a", "b", "c"], [1, 3, 4]))
    assert keep_places(old, new, problem) == new


def test_repairs_move_only_what_was_lost() -> None:
    problem = with_twins()
    old = Plan(stages_from_counts(["a", "b", "c"], [2, 3, 3]))
    left = without_devices(problem, ["c"])
    found = repairs(old, left)
    assert found
    for stages in found:
        assert {move.unit for move in moves(old, Plan(stages))} <= {5, 6, 7}
        assert broken_limit(left, stages, evaluate(left, stages)) is None
    cut = (StagePlan("a", 0, 2), StagePlan("c", 3, 7))
    wide = without_devices(three_devices(), ["b"])
    assert cut in repairs(Plan(stages_from_counts(["a", "b", "c"], [2, 3, 3])), wide)


def test_a_repair_over_links_that_there_are_not_is_none() -> None:
    left = without_devices(three_devices(), ["b"])
    left = replace(left, links=tuple(link for link in left.links if link.source != "c"))
    found = repairs(Plan(stages_from_counts(["a", "b"], [1, 7])), left)
    assert set(found) == {stages_from_counts(["a"], [8])}


def test_a_loss_moves_no_more_than_it_must_where_that_costs_little() -> None:
    problem = with_twins()
    old = Plan(stages_from_counts(["a", "b", "c"], [1, 4, 3]))
    spread = Plan(stages_from_counts(["a", "c-twin", "b"], [1, 3, 4]))

    def replan(_: Problem) -> Plan:
        return spread

    new = replace_lost(old, Observed(0.0, problem), ["c"], replan)
    assert {move.unit for move in moves(old, new)} == {5, 6, 7} and new.version == 2


def test_where_nothing_but_a_new_plan_fits_that_is_taken() -> None:
    problem = three_devices(memory_units=7)
    new = replace_lost(AB, Observed(0.0, problem), ["b"], best_plan)
    assert new.devices == ("a", "c")
