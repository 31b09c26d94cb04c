"""What follows from many looks, one a second: noise moves nothing, a device that became slow is relieved of layers
within seconds, and nothing goes back and forth. No clock, no devices: what stages would report is reckoned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from three_devices import best_plan, three_devices

from shardnet.plan import DeviceProfile, Plan, StagePlan, stages_from_counts
from shardnet.planner.costs import evaluate
from shardnet.planner.problem import Problem
from shardnet.policy.observing import FORGOTTEN_AFTER, Pace, Work
from shardnet.policy.rebalance import Change, Observed, Past, Policy, decide, moves, prospect

NAMES = ("a", "b", "c")
LOOK_S = 1.0
WITHIN_S = 4.0
"""Of the 5 s that a revision may take; the rest is for loading what moves."""
Slowdown = Callable[[str, float], float]
"""By what factor a device is slower than it was measured, at some time."""


def equal_devices(memory_units: int) -> Problem:
    problem = three_devices(memory_units)
    return replace(
        problem, devices=tuple(replace(each, unit_seconds=(4e-3,) * 8, active_w=None) for each in problem.devices)
    )


def even_plan(problem: Problem, objective: str) -> Plan:
    stages = stages_from_counts(NAMES, [3, 3, 2])
    return replace(Plan(stages, objective=objective), version=1)


def fastest(objective: str) -> Callable[[Problem], Plan]:
    """Brute force over all orders."""
    if objective == "latency":
        return best_plan

    def place(problem: Problem) -> Plan:
        found = []
        for first in range(1, 7):
            for second in range(1, 8 - first):
                stages = stages_from_counts(NAMES, [first, second, 8 - first - second])
                found.append((evaluate(problem, stages).value(objective, 3), stages))
        return Plan(min(found, key=lambda row: row[0])[1], objective=objective)

    return place


class Run:
    """A conversation over three devices, looked at every second.

    Args:
        step_noise, drift: shares by which steps, and whole seconds of a device, differ at random.
        begin_s: when the first look comes.
    """

    def __init__(
        self,
        slowdown: Slowdown,
        *,
        objective: str = "latency",
        memory_units: int = 4,
        seed: int = 0,
        step_noise: float = 0.0,
        drift: float = 0.0,
        begin_s: float = LOOK_S,
    ) -> None:
        self.problem = equal_devices(memory_units)
        self.plan = even_plan(self.problem, objective)
        self.changed_s: list[float] = []
        self.plans = [self.plan]
        self.num_planned = 0
        self._slowdown = slowdown
        self._place = fastest(objective)
        self._random = Random(seed)
        self._step_noise, self._drift = step_noise, drift
        self._begin_s = begin_s

    def play(self, seconds: float, policy: Policy | None = None) -> Run:
        policy = policy or Policy()
        pace, past, found = Pace(), Past(), None
        profiles = {
            device.name: DeviceProfile(device.name, 0, device.unit_seconds, device.prefill_unit_seconds or ())
            for device in self.problem.devices
        }
        at_s, now_s = 0.0, self._begin_s
        while now_s <= seconds:
            pace = pace.seen(self._works(at_s, now_s), profiles)
            slowdown = pace.slowdown(NAMES)
            if found is None or not found.holds(slowdown, {}):
                seen = Observed(now_s, self.problem, device_slowdown=slowdown, in_flight=3)
                found = prospect(self.plan, seen, self._place)
                self.num_planned += 1
            decision = decide(self.plan, found, now_s, past, policy)
            past = replace(past, better_since_s=decision.better_since_s)
            if decision.plan is not None:
                past = past.after(Change(now_s, moves(self.plan, decision.plan)))
                self.plan, found = decision.plan, None
                self.plans.append(self.plan)
                self.changed_s.append(now_s)
            at_s, now_s = now_s, now_s + LOOK_S
        return self

    def _works(self, from_s: float, to_s: float) -> list[Work]:
        drift = {name: 1 + self._random.uniform(-self._drift, self._drift) for name in NAMES}
        spent = dict.fromkeys(NAMES, 0.0)
        num_steps, at_s = 0, from_s
        while at_s < to_s:
            for stage in self.plan.stages:
                noise = 1 + self._random.uniform(-self._step_noise, self._step_noise)
                seconds = 4e-3 * stage.num_units * self._slowdown(stage.device, at_s) * noise * drift[stage.device]
                spent[stage.device] += seconds
                at_s += seconds
            num_steps += 1
        return [Work(stage, spent[stage.device], num_steps, num_steps) for stage in self.plan.stages]


def steady(_: str, __: float) -> float:
    return 1.0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("objective", ["latency", "throughput"])
@pytest.mark.parametrize("noise", [{"step_noise": 0.1}, {"drift": 0.1}, {"step_noise": 0.1, "drift": 0.1}])
def test_noise_alone_moves_nothing(seed: int, objective: str, noise: dict[str, float]) -> None:
    run = Run(steady, objective=objective, seed=seed, **noise)
    run.plan = run._place(run.problem)
    first = run.plan
    assert run.play(60.0).changed_s == [] and run.plan is first


@pytest.mark.parametrize("memory_units", [4, 8])
@pytest.mark.parametrize("objective", ["latency", "throughput"])
@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("step_s", [0.0, 0.3, 0.99, 1.0, 1.01, 5.5, 14.9, 30.2])
def test_a_device_at_a_third_of_its_speed_is_relieved_within_seconds_whenever_that_comes(
    step_s: float, noise: float, objective: str, memory_units: int
) -> None:
    def slow(device: str, at_s: float) -> float:
        return 3.0 if device == slowed and at_s >= step_s else 1.0

    run = Run(slow, objective=objective, memory_units=memory_units, step_noise=noise, drift=noise / 2)
    run.plan = run._place(run.problem)
    slowed = run.plan.devices[-1]
    if len(run.plan.devices) == 1 and step_s == 0:
        assert run.play(60.0).changed_s == [], "alone, it may be one of devices that are all slower than measured"
        return
    run.play(step_s + 60.0)
    assert step_s < run.changed_s[0] <= step_s + WITHIN_S
    assert len(run.changed_s) == 1, "once is enough"


@pytest.mark.parametrize("period_s", [3.0, 5.0, 8.0, 13.0])
def test_a_device_that_is_slow_now_and_then_does_not_have_layers_go_back_and_forth(period_s: float) -> None:
    def wavering(device: str, at_s: float) -> float:
        return 3.0 if device == "b" and int(at_s / period_s) % 2 else 1.0

    run = Run(wavering, objective="throughput").play(300.0)
    assert len(run.changed_s) <= 6
    assert all(later - earlier > 15.0 for earlier, later in pairwise(run.changed_s[1:]))


def test_what_is_as_it_was_is_not_planned_anew() -> None:
    assert Run(steady, step_noise=0.1).play(60.0).num_planned <= 3


def test_what_could_not_be_done_is_tried_ever_more_seldom() -> None:
    run = Run(lambda device, _: 3.0 if device == "b" else 1.0, objective="throughput")
    seen = Observed(0.0, run.problem, device_slowdown={"a": 1.0, "b": 3.0, "c": 1.0}, in_flight=3)
    found = prospect(run.plan, seen, run._place)
    assert found.plan is not None
    past, tried_s = Past(better_since_s=0.0), []
    for now_s in range(2, 120):
        decision = decide(run.plan, found, float(now_s), past, Policy())
        past = replace(past, better_since_s=decision.better_since_s)
        if decision.plan is not None:
            tried_s.append(now_s)
            past = past.after(Change(float(now_s), moves(found.plan, run.plan)))
    waits_s = [later - earlier for earlier, later in pairwise(tried_s)]
    assert waits_s == [15, 30, 60]


def test_an_embedding_alone_says_nothing_of_how_fast_its_device_is() -> None:
    """What its stage spends beside the lookup is many times the lookup: the device would never be given a layer."""
    times = (1e-5, *[4e-3] * 7)
    profiles = {name: DeviceProfile(name, 0, times, times) for name in "ab"}
    embedding, rest = StagePlan("a", 0, 0), StagePlan("b", 1, 7)
    pace = Pace().seen([Work(embedding, 10 * 9e-5, 10, 10), Work(rest, 10 * 30e-3, 10, 10)], profiles)
    slowdown = pace.slowdown("ab")
    assert slowdown["a"] == slowdown["b"] == pytest.approx(30 / 28)
    pace = pace.seen([Work(embedding, 10 * 9e-5, 10, 10), Work(rest, 10 * 90e-3, 10, 10)], profiles)
    assert pace.slowdown("ab") == {"a": slowdown["a"], "b": pytest.approx(90 / 28)}


def test_a_device_that_lost_its_layers_for_being_slow_is_tried_again_later() -> None:
    profiles = {name: DeviceProfile(name, 0, (4e-3,) * 8, (4e-3,) * 8) for name in "ab"}

    def work(device: str, units: int, slowdown: float) -> Work:
        return Work(StagePlan(device, 0, units - 1), 10 * 4e-3 * units * slowdown, 10, 10)

    pace = Pace().seen([work("a", 4, 1.0), work("b", 4, 1.0)], profiles)
    pace = pace.seen([work("a", 4, 3.0), work("b", 4, 1.0)], profiles)
    for _ in range(FORGOTTEN_AFTER - 1):
        pace = pace.seen([work("b", 8, 1.0)], profiles)
        assert pace.slowdown("ab") == {"a": 3.0, "b": 1.0}
    assert pace.seen([work("b", 8, 1.0)], profiles).slowdown("ab") == {"a": 1.0, "b": 1.0}
