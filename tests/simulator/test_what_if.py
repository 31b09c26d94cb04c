from __future__ import annotations

from dataclasses import replace

import pytest
from three_devices import best_plan, three_devices

from shardnet.simulator.what_if import halved_weights, limits, what_ifs, with_twin


def test_limits_name_the_busiest_part_and_full_memories() -> None:
    problem = three_devices(memory_units=5)
    plan = best_plan(problem)
    told = " ".join(limits(problem, plan, in_flight=1))
    assert "of it is compute" in told and "The busiest part is" in told
    assert "The memory of b is full" in told
    assert "never idle" in " ".join(limits(problem, plan, in_flight=50))


def test_answers_are_plans_made_anew() -> None:
    problem = three_devices(memory_units=5)
    plan = best_plan(problem)
    answers = {
        answer.change: answer
        for answer in what_ifs(problem, plan, best_plan, fewer_bits=("fewer bits", halved_weights(problem)))
    }
    assert answers["twice the memory on b"].gain > 0.1
    assert answers["fewer bits"].gain > 0.3
    assert any("bandwidth" in change for change in answers) and "a context of 500 tokens" in answers
    assert all(answer.plan is not None for answer in answers.values())


def test_a_twin_has_the_links_of_its_model() -> None:
    problem = with_twin(three_devices(), "b")
    assert [device.name for device in problem.devices] == ["a", "b", "c", "b-twin"]
    links = {(link.source, link.target) for link in problem.links}
    assert {("a", "b-twin"), ("b-twin", "c"), ("b", "b-twin"), ("b-twin", "b")} <= links
    lonely = replace(problem, devices=problem.devices[:1], links=())
    assert len(with_twin(lonely, "a").links) == 2


def test_what_does_not_fit_even_then_says_so() -> None:
    problem = three_devices(memory_units=3)
    plan = best_plan(problem)
    smaller = replace(problem, devices=tuple(replace(each, memory_bytes=1) for each in problem.devices))
    answer = what_ifs(problem, plan, best_plan, fewer_bits=("nothing", smaller))
    assert next(each for each in answer if each.change == "nothing").plan is None


def test_halved_weights_halve_times_too() -> None:
    problem = halved_weights(three_devices())
    assert problem.units[0].weight_bytes == pytest.approx(50e6)
    assert problem.devices[0].unit_seconds[0] == pytest.approx(2e-3)
