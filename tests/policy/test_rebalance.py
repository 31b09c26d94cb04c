from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from three_devices import AB, best_plan, three_devices

from shardnet.errors import DoesNotFit
from shardnet.plan import Plan, StagePlan, owners_of, stages_from_counts
from shardnet.planner.costs import evaluate
from shardnet.policy.rebalance import (
    Change,
    Decision,
    Move,
    Observed,
    Past,
    Policy,
    decide,
    moves,
    observed_problem,
    prospect,
    revise,
    without_devices,
)

POLICY = Policy(min_gain=0.15, hold_s=2.0, cool_down_s=10.0)
SLOW = Observed(now_s=100.0, problem=three_devices(), device_slowdown={"b": 8.0})


def test_a_gain_must_hold_before_anything_moves() -> None:
    first = revise(AB, SLOW, POLICY, best_plan)
    assert first.plan is None and first.better_since_s == 100.0 and "must hold for 1 s" in first.why
    later = revise(AB, replace(SLOW, now_s=101.0, past=Past(better_since_s=100.0)), POLICY, best_plan)
    assert later.plan is not None and later.plan.version == 2 and "gains" in later.why


def test_a_small_gain_must_hold_longer() -> None:
    seen = replace(SLOW, device_slowdown={"b": 2.6}, past=Past(better_since_s=98.5))
    decision = revise(AB, seen, POLICY, best_plan)
    assert decision.plan is None and "must hold for 1.7" in decision.why
    assert revise(AB, replace(seen, past=Past(better_since_s=98.0)), POLICY, best_plan).plan is not None


def test_a_gain_that_vanishes_starts_anew() -> None:
    calm = replace(SLOW, now_s=101.0, device_slowdown={}, past=Past(better_since_s=100.0))
    decision = revise(AB, calm, POLICY, best_plan)
    assert decision.plan is None and decision.better_since_s is None


def test_a_gain_that_nobody_looked_at_for_a_while_starts_anew() -> None:
    """Once, what was seen a single time, before an hour without a conversation, moved layers at once."""
    past = Past((Change(90.0, ()),), better_since_s=100.0)
    assert past.unseen_for(1.5) == past
    assert past.unseen_for(3600.0) == Past((Change(90.0, ()),))


def test_the_cool_down_comes_first() -> None:
    """A shorter one for a large gain."""

    def decided(slowdown: float, ago_s: float) -> Decision:
        past = Past((Change(100.0 - ago_s, ()),), better_since_s=90.0)
        return revise(AB, replace(SLOW, device_slowdown={"b": slowdown}, past=past), POLICY, best_plan)

    assert decided(8.0, 4.0).plan is not None
    decision = decided(2.8, 4.0)
    assert decision.plan is None and "cool-down" in decision.why and decision.better_since_s == 90.0
    assert decided(2.8, 6.0).plan is not None


def test_a_small_gain_is_not_worth_a_move() -> None:
    decision = revise(AB, replace(SLOW, device_slowdown={"b": 1.1}), POLICY, best_plan)
    assert decision.plan is None and "less than 15%" in decision.why


def test_a_change_for_which_there_is_no_room_at_once_goes_in_steps() -> None:
    """It is one change: each step has a version, and the gain is that of the last."""
    problem = three_devices(memory_units=4)
    plan, best = (Plan(stages_from_counts(["a", "b", "c"], counts)) for counts in ([4, 3, 1], [1, 4, 3]))
    slow = Observed(now_s=100.0, problem=problem, device_slowdown={"a": 8.0})

    def has_room(before: Sequence[StagePlan], after: Sequence[StagePlan]) -> bool:
        held = {*enumerate(owners_of(before)), *enumerate(owners_of(after))}
        return all([device for _, device in held].count(name) <= 4 for name in "abc")

    found = prospect(plan, slow, lambda _: best, has_room=has_room)
    decision = decide(plan, found, 100.0, Past(better_since_s=90.0), POLICY)
    assert decision.plan is not None and decision.plan.stages == best.stages
    steps = [plan, *decision.via, decision.plan]
    assert [step.version for step in steps] == list(range(1, len(steps) + 1)) and len(steps) > 2
    assert all(has_room(before.stages, after.stages) for before, after in pairwise(steps))
    laps_s = [evaluate(observed_problem(slow), step.stages).lap_s for step in decision.via]
    assert [step.lap_s for step in decision.via] == laps_s
    assert prospect(plan, slow, lambda _: best).via == ()


def test_where_nothing_fits_any_more_the_plan_stays() -> None:
    def nothing(_: object) -> Plan:
        raise DoesNotFit("too small")

    assert "too small" in revise(AB, SLOW, POLICY, nothing).why


def test_devices_that_were_reached_only_over_the_lost_one_go_with_it() -> None:
    problem = three_devices()
    links = tuple(link for link in problem.links if {link.source, link.target} != {"a", "c"})
    left = without_devices(replace(problem, links=links), ["b"])
    assert [device.name for device in left.devices] == ["a"]


def test_a_device_with_no_way_back_goes_with_the_lost_one() -> None:
    """Once, c still counted as reached, no plan over it could be judged, and the run ended though a had room."""
    problem = three_devices()
    one_way = [("a", "c"), ("c", "b"), ("b", "a")]
    problem = replace(problem, links=tuple(link for link in problem.links if (link.source, link.target) in one_way))
    assert [device.name for device in without_devices(problem, ["b"]).devices] == ["a"]
    assert [device.name for device in without_devices(three_devices(), [], cut=[("a", "c")]).devices] == ["a", "b", "c"]
    assert [device.name for device in without_devices(three_devices(), ["b"], cut=[("a", "c")]).devices] == ["a"]
    with pytest.raises(DoesNotFit, match="source a is gone"):
        without_devices(problem, ["a"])


def test_joules_that_are_not_known_are_never_compared_with_seconds() -> None:
    """Once, the seconds of a lap stood in for them: a plan of 0.1 s was "better" than one of 3 J."""
    problem = three_devices()
    known = replace(problem.devices[0], active_w=100.0)
    problem = replace(problem, devices=(known, *problem.devices[1:]))
    alone = Plan(stages_from_counts(["a"], [8]), objective="energy")
    unknown = replace(AB, objective="energy")
    assert revise(alone, Observed(100.0, problem), POLICY, lambda _: unknown).plan is None
    held = Observed(100.0, problem, past=Past(better_since_s=90.0))
    assert revise(unknown, held, POLICY, lambda _: alone).plan == replace(alone, version=2)
    assert revise(unknown, Observed(100.0, three_devices()), POLICY, lambda _: alone).plan is None


def test_moves_name_the_old_owner_while_it_lives() -> None:
    new = Plan(stages_from_counts(["a", "c"], [3, 5]))
    assert moves(AB, new)[0] == Move(1, "b", "a")
    assert moves(AB, new, lost=["b"])[-1] == Move(7, None, "c")
    assert moves(AB, AB) == ()


def test_observed_times_scale_devices_and_links() -> None:
    seen = observed_problem(replace(SLOW, link_slowdown={("a", "b"): 2.0}))
    assert seen.devices[1].unit_seconds[0] == pytest.approx(8e-3)
    link = next(link for link in seen.links if (link.source, link.target) == ("a", "b"))
    assert link.latency_s == pytest.approx(2e-3) and link.bytes_per_s == pytest.approx(5e6)
