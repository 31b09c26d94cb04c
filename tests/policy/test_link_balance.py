"""What follows from many looks at links, one a second: noise moves nothing, layers leave a device whose links became
slow within seconds, and nothing goes back and forth. No clock, no devices: what stages would report is reckoned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, permutations
from random import Random

import pytest
from three_devices import quickest

from shardnet.plan import Link, Plan, stages_from_counts
from shardnet.planner.problem import Device, Problem, Unit
from shardnet.policy.link_pace import LEAST_EXTRA_S, LinkPace, Trip, Way
from shardnet.policy.observing import FORGOTTEN_AFTER
from shardnet.policy.rebalance import Change, Observed, Past, Policy, decide, moves, prospect

NAMES = ("a", "b", "c", "d")
STEP_S = 4e-3
LOOK_S = 1.0
WITHIN_S = 4.0
LAST_HOPS = 32
"""So many are told of each stage."""
Slowdown = Callable[[Way, float], float]
"""By what factor a way is slower than it was measured, at some time."""


def meshed(
    latency_s: float = 1e-3, bytes_per_s: float = 10e6, *, names: tuple[str, ...] = NAMES, memory_units: int = 4
) -> Problem:
    """Devices that are all alike, of which two can hold the model, or three where each has room for three units."""
    units = tuple(Unit(f"u{i}", 100e6, 1000, 2000) for i in range(8))
    devices = tuple(Device(name, memory_units * 101e6, (STEP_S,) * 8) for name in names)
    links = tuple(Link(*ends, latency_s, bytes_per_s) for ends in permutations(names, 2))
    return Problem(units, devices, links, "a", pin_embedding=False, context_tokens=1000, relays=False)


def best_plan(problem: Problem) -> Plan:
    """Brute force over all orders of two or three devices, in even stages."""
    names = [device.name for device in problem.devices]
    return quickest(
        problem,
        (
            stages_from_counts(order, counts)
            for counts in ([4, 4], [3, 3, 2], [2, 3, 3])
            for order in permutations(names, len(counts))
        ),
    )


class Run:
    """A conversation over some of four devices, looked at every second.

    Args:
        overhead_s: what a hop takes besides the link, there and back.
        jitter_s: by up to so much each message is late at random.
        step_noise: share by which steps differ at random.
    """

    def __init__(
        self,
        slowdown: Slowdown,
        problem: Problem,
        counts: list[int],
        *,
        seed: int = 0,
        overhead_s: float = 1e-3,
        jitter_s: float = 0.0,
        step_noise: float = 0.0,
    ) -> None:
        self.problem = problem
        stages = stages_from_counts(NAMES[: len(counts)], counts)
        self.plan = Plan(stages, version=1)
        self.changed_s: list[float] = []
        self.num_planned = 0
        self._slowdown = slowdown
        self._random = Random(seed)
        self._overhead_s, self._jitter_s, self._step_noise = overhead_s, jitter_s, step_noise
        self._links = {(link.source, link.target): link for link in problem.links}

    def play(self, seconds: float) -> Run:
        pace, past, found = LinkPace(), Past(), None
        alike = dict.fromkeys(NAMES, 1.0)
        at_s, now_s = 0.0, LOOK_S
        while now_s <= seconds:
            pace = pace.seen(self._trips(at_s, now_s), self._links, 8 * STEP_S)
            slow = pace.slowdown(NAMES, self._links)
            if found is None or not found.holds(alike, slow):
                seen = Observed(now_s, self.problem, device_slowdown=alike, link_slowdown=slow)
                found = prospect(self.plan, seen, best_plan)
                self.num_planned += 1
            decision = decide(self.plan, found, now_s, past, Policy())
            past = replace(past, better_since_s=decision.better_since_s)
            if decision.plan is not None:
                past = past.after(Change(now_s, moves(self.plan, decision.plan)))
                self.plan, found = decision.plan, None
                self.changed_s.append(now_s)
            at_s, now_s = now_s, now_s + LOOK_S
        return self

    def _trips(self, from_s: float, to_s: float) -> list[Trip]:
        trips: defaultdict[str, list[Trip]] = defaultdict(list)
        stages = self.plan.stages
        at_s = from_s
        while at_s < to_s:
            for stage, following in zip(stages, (*stages[1:], stages[0])):
                at_s += STEP_S * stage.num_units * (1 + self._random.uniform(-self._step_noise, self._step_noise))
                way = stage.device, following.device
                num_bytes = 8 if following is stages[0] else 2000
                there_s, back_s = self._message_s(way, num_bytes, at_s), self._message_s(way[::-1], 0, at_s)
                trips[stage.device].append(Trip(*way, there_s + back_s + self._overhead_s, num_bytes))
                at_s += there_s
        return [trip for of_one in trips.values() for trip in of_one[-LAST_HOPS:]]

    def _message_s(self, way: Way, num_bytes: int, at_s: float) -> float:
        return self._links[way].seconds(num_bytes) * self._slowdown(way, at_s) + self._random.uniform(0, self._jitter_s)


def steady(_: Way, __: float) -> float:
    return 1.0


def carried_away(device: str, from_s: float, factor: float = 10.0) -> Slowdown:
    """All ways of a device are slow from some time on."""
    return lambda way, at_s: factor if device in way and at_s >= from_s else 1.0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("counts", [[4, 4], [3, 3, 2]])
@pytest.mark.parametrize("overhead_s", [0.0, 1e-3, 20e-3])
def test_noise_alone_moves_nothing(seed: int, counts: list[int], overhead_s: float) -> None:
    """Nor does what hops take from the beginning on, however long."""
    run = Run(steady, meshed(), counts, seed=seed, overhead_s=overhead_s, jitter_s=4e-3, step_noise=0.1)
    first = run.plan
    assert run.play(60.0).changed_s == [] and run.plan is first
    assert run.num_planned <= 3


@pytest.mark.parametrize("jitter_s", [0.0, 4e-3])
@pytest.mark.parametrize("step_s", [0.3, 0.99, 1.0, 1.01, 5.5, 14.9, 30.2])
@pytest.mark.parametrize(
    "problem", [meshed(memory_units=3), meshed(1e-4, 2e5, memory_units=3)], ids=["latency", "bandwidth"]
)
@pytest.mark.parametrize("slowed", ["a", "b", "c"])
def test_layers_leave_a_device_whose_links_are_ten_times_slower(
    slowed: str, problem: Problem, step_s: float, jitter_s: float
) -> None:
    run = Run(carried_away(slowed, step_s), problem, [3, 3, 2], jitter_s=jitter_s, step_noise=jitter_s * 25)
    run.play(step_s + 60.0)
    assert step_s < run.changed_s[0] <= step_s + WITHIN_S
    assert slowed not in run.plan.devices
    comes_back_over_it = slowed == "a" and problem.links[0].bytes_per_s < 10e6
    assert len(run.changed_s) <= 1 + comes_back_over_it, (
        "of what comes back, ids, bandwidth is not seen; else once does"
    )


@pytest.mark.parametrize("problem", [meshed(), meshed(1e-4, 2e5)], ids=["latency", "bandwidth"])
def test_a_ring_leaves_a_single_link_that_became_slow(problem: Problem) -> None:
    """It may be that one end or the other is to blame: at most one more change follows."""
    run = Run(lambda way, at_s: 30.0 if set(way) == {"a", "b"} and at_s >= 5.5 else 1.0, problem, [4, 4])
    run.play(90.0)
    assert 5.5 < run.changed_s[0] <= 5.5 + WITHIN_S
    assert len(run.changed_s) == 1
    assert ("a", "b") not in pairwise([*run.plan.devices, run.plan.devices[0]])
    for slowed in "ab":
        run = Run(carried_away(slowed, 5.5, 30.0), problem, [4, 4]).play(90.0)
        assert 5.5 < run.changed_s[0] <= 5.5 + WITHIN_S and len(run.changed_s) <= 2
        assert slowed not in run.plan.devices


@pytest.mark.parametrize("period_s", [3.0, 5.0, 8.0, 13.0])
def test_a_link_that_is_slow_now_and_then_does_not_have_layers_go_back_and_forth(period_s: float) -> None:
    def wavering(way: Way, at_s: float) -> float:
        return 20.0 if "b" in way and int(at_s / period_s) % 2 else 1.0

    assert len(Run(wavering, meshed(), [3, 3, 2], jitter_s=2e-3).play(300.0).changed_s) == 1
    only_three = meshed(names=NAMES[:3])
    run = Run(wavering, only_three, [3, 3, 2], jitter_s=2e-3).play(300.0)
    assert len(run.changed_s) <= 6


def trips(source: str, target: str, seconds: float, num: int = 10) -> list[Trip]:
    return [Trip(source, target, seconds, 2000)] * num


LINKS = {(link.source, link.target): link for link in meshed().links}
DUE_S = 1e-3 + 0.2e-3 + 1e-3
LATE_S = 50e-3


def test_what_is_slow_both_ways_is_known_from_one() -> None:
    pace = LinkPace().seen([*trips("a", "b", DUE_S), *trips("b", "c", DUE_S), *trips("c", "a", DUE_S)], LINKS, 0.03)
    assert pace.slowdown(NAMES, LINKS) == {}
    pace = pace.seen([*trips("a", "b", DUE_S + LATE_S), *trips("b", "c", DUE_S)], LINKS, 0.03)
    slow = pace.slowdown(NAMES, LINKS)
    assert slow == {("a", "b"): pytest.approx(1 + LATE_S / DUE_S), ("b", "a"): pytest.approx(1 + LATE_S / DUE_S)}


def test_a_device_that_is_slow_to_all_its_neighbours_is_slow_to_all_others() -> None:
    pace = LinkPace().seen([*trips("a", "b", DUE_S), *trips("b", "c", DUE_S), *trips("c", "a", DUE_S)], LINKS, 0.03)
    late = [*trips("a", "b", DUE_S + LATE_S), *trips("b", "c", DUE_S + 2 * LATE_S), *trips("c", "a", DUE_S)]
    slow = pace.seen(late, LINKS, 0.03).slowdown(NAMES, LINKS)
    assert {way for way in slow if "d" in way} == {("b", "d"), ("d", "b")}
    assert slow["b", "d"] == slow["d", "b"] == pytest.approx(1 + LATE_S / DUE_S)


def test_one_hop_that_was_quick_shows_that_others_were_late_for_another_reason() -> None:
    pace = LinkPace().seen(trips("a", "b", DUE_S), LINKS, 0.03)
    pace = pace.seen([*trips("a", "b", DUE_S + LATE_S, 31), *trips("a", "b", DUE_S, 1)], LINKS, 0.03)
    assert pace.slowdown(NAMES, LINKS) == {}
    assert pace.seen(trips("a", "b", DUE_S + LATE_S, 2), LINKS, 0.03).slowdown(NAMES, LINKS) == {}, "too few"


def test_what_is_little_beside_a_lap_says_nothing() -> None:
    pace = LinkPace().seen(trips("a", "b", DUE_S), LINKS, 2.0)
    assert pace.seen(trips("a", "b", DUE_S + LATE_S), LINKS, 2.0).slowdown(NAMES, LINKS) == {}
    pace = LinkPace().seen(trips("a", "b", DUE_S), LINKS, 0.01)
    assert pace.seen(trips("a", "b", DUE_S + 0.9 * LEAST_EXTRA_S), LINKS, 0.01).slowdown(NAMES, LINKS) == {}


def test_a_new_way_that_is_late_from_the_beginning_is_slow() -> None:
    """Only what all ways have in common is what hops take beside the links."""
    pace = LinkPace().seen(trips("a", "b", DUE_S + 0.02), LINKS, 0.03)
    assert pace.slowdown(NAMES, LINKS) == {}
    slow = pace.seen(trips("a", "c", DUE_S + 0.02 + LATE_S), LINKS, 0.03).slowdown(NAMES, LINKS)
    assert set(slow) == {("a", "c"), ("c", "a")} and slow["a", "c"] == pytest.approx(1 + LATE_S / DUE_S)


def test_a_slow_link_is_tried_again_later() -> None:
    pace = LinkPace().seen(trips("a", "b", DUE_S), LINKS, 0.03).seen(trips("a", "b", DUE_S + LATE_S), LINKS, 0.03)
    for _ in range(FORGOTTEN_AFTER - 1):
        pace = pace.seen(trips("a", "c", DUE_S), LINKS, 0.03)
        assert ("a", "b") in pace.slowdown(NAMES, LINKS)
    assert pace.seen(trips("a", "c", DUE_S), LINKS, 0.03).slowdown(NAMES, LINKS) == {}
