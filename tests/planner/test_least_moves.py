from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from three_devices import best_plan, three_devices

from shardnet.plan import Link, Plan, StagePlan, stages_from_counts, stages_of_owners
from shardnet.planner.costs import broken_limit, evaluate
from shardnet.planner.least_moves import keep_places, with_fewer_moves
from shardnet.planner.problem import Device, Problem
from shardnet.policy.rebalance import moves
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


def test_of_plans_that_are_nearly_as_good_the_one_that_moves_least_is_taken() -> None:
    """Once, all 32 units of a ring moved where five would have done."""
    problem = equals(memory_units=5)
    old = Plan(stages_from_counts(["b", "a", "c"], [3, 3, 2]))
    slow = replace(problem, devices=tuple(slower(each) if each.name == "a" else each for each in problem.devices))
    new = Plan(stages_from_counts(["c", "b"], [4, 4]))
    found = with_fewer_moves(old, new, slow, 1, 0.03)
    assert found is not None
    assert evaluate(slow, found.stages).lap_s <= 1.03 * evaluate(slow, new.stages).lap_s
    assert len(moves(old, found)) == 3 < len(moves(old, new))
    assert "a" not in found.devices


def test_a_newcomer_comes_in_where_least_moves() -> None:
    problem = equals(memory_units=4)
    old = Plan(stages_from_counts(["a", "b"], [4, 4]))
    slow = replace(problem, devices=tuple(slower(each) if each.name == "a" else each for each in problem.devices))
    new = Plan(stages_from_counts(["b", "c"], [4, 4]))
    found = with_fewer_moves(old, new, slow, 1, 0.03)
    assert found is not None
    assert found.stages == stages_from_counts(["c", "b"], [4, 4])


def test_a_newcomer_takes_the_place_of_one_of_several_stages_of_a_ring_that_comes_by_a_device_twice() -> None:
    """Once, no other plan was looked for then: where there was no room for the best one, nothing moved."""
    problem = equals(memory_units=7)
    slow = replace(
        problem, links=tuple(late(each) if {each.source, each.target} == {"a", "b"} else each for each in problem.links)
    )
    old = Plan(stages_of_owners("aaaaabaa"))
    new = Plan(stages_of_owners("aaaaaaac"))

    def may_be(stages: Sequence[StagePlan]) -> bool:
        return stages != new.stages

    found = with_fewer_moves(old, new, slow, 1, 0.03, may_be)
    assert found is not None
    assert found.stages == stages_of_owners("aaaaacaa")


def late(link: Link) -> Link:
    return replace(link, latency_s=1.0)


def equals(memory_units: int) -> Problem:
    """Three devices that are alike, and any of which may come first."""
    problem = three_devices(memory_units)
    devices = tuple(replace(each, unit_seconds=(4e-3,) * 8) for each in problem.devices)
    return replace(problem, devices=devices, pin_embedding=False)


def slower(device: Device) -> Device:
    return replace(device, unit_seconds=tuple(3 * seconds for seconds in device.unit_seconds))


@settings(deadline=None, max_examples=120)
@given(
    old=st.lists(st.sampled_from("abc"), min_size=8, max_size=8).map(stages_of_owners).map(Plan),
    factors=st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=3, max_size=3),
    objective=st.sampled_from(["latency", "throughput"]),
)
def test_what_moves_less_is_never_much_worse(old: Plan, factors: list[float], objective: str) -> None:
    problem = three_devices(memory_units=6)
    devices = tuple(
        replace(each, unit_seconds=tuple(factor * seconds for seconds in each.unit_seconds))
        for each, factor in zip(problem.devices, factors, strict=True)
    )
    problem = replace(problem, devices=devices)
    new = replace(best_plan(problem), objective=objective)
    found = with_fewer_moves(old, new, problem, 2, 0.03)
    assert found is not None
    cost, best = evaluate(problem, found.stages), evaluate(problem, new.stages)
    assert broken_limit(problem, found.stages, cost) is None
    assert cost.value(objective, 2) <= 1.03 * best.value(objective, 2)
    assert len(moves(old, found)) <= len(moves(old, new))


def test_where_the_best_plan_may_not_be_the_best_of_the_others_is_taken() -> None:
    problem = equals(memory_units=5)
    old = Plan(stages_from_counts(["b", "a", "c"], [3, 3, 2]))
    slow = replace(problem, devices=tuple(slower(each) if each.name == "a" else each for each in problem.devices))
    new = Plan(stages_from_counts(["c", "b"], [4, 4]))

    def may_be(stages: Sequence[StagePlan]) -> bool:
        return any(stage.device == "a" for stage in stages)

    found = with_fewer_moves(old, new, slow, 1, 0.03, may_be)
    assert found is not None
    assert [stage.num_units for stage in found.stages if stage.device == "a"] == [1]
    assert with_fewer_moves(old, new, slow, 1, 0.03, lambda _: False) is None
