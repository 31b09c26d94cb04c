"""What devices keep ready for each other, in random clusters."""

from __future__ import annotations

from collections import Counter

from four_devices import NAMES, NUM_UNITS, WEIGHT, means_of
from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.plan import Plan, StagePlan, stages_from_counts
from shardnet.policy.shape import Held, missing, pieces
from shardnet.policy.standby import overlapping, reserves
from shardnet.policy.succession import Away, succeed

UNIT_BYTES = [WEIGHT] * NUM_UNITS


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=4, max_size=4).filter(lambda counts: sum(counts) == NUM_UNITS),
    st.lists(st.integers(0, 8), min_size=4, max_size=4),
)
def test_what_is_ready_is_what_would_be_taken_over_and_fits(counts: list[int], spare: list[int]) -> None:
    plan = Plan(stages_from_counts(NAMES, counts))
    means = means_of(dict.fromkeys(NAMES, NUM_UNITS))
    most = {name: num * WEIGHT for name, num in zip(NAMES, spare, strict=True)}
    found = reserves(plan, plan.stages, means, UNIT_BYTES, most)
    taken: Counter[str] = Counter()
    for reserve in found:
        taken[reserve.stage.device] += reserve.stage.num_units * WEIGHT
        after = succeed(plan, None, Away(lost=frozenset({reserve.instead_of})), means).plan
        left = [Held(stage) for stage in plan.stages if stage.device != reserve.instead_of]
        assert reserve.stage in missing(pieces(left, after))
    assert all(taken[name] <= most[name] for name in NAMES)
    if min(spare) == 8:
        assert {reserve.instead_of for reserve in found} == set(plan.devices)


def test_where_memory_is_short_the_cheapest_are_covered() -> None:
    plan = Plan(stages_from_counts(["a", "b", "c"], [5, 1, 2]))
    most = {"a": 0, "b": 0, "c": 0, "d": 3 * WEIGHT}
    means = means_of({"a": 5, "b": 1, "c": 2, "d": 8})
    found = reserves(plan, plan.stages, means, UNIT_BYTES, most)
    assert {reserve.instead_of for reserve in found} == {"b", "c"}
    assert {reserve.stage.device for reserve in found} == {"d"}


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 4), min_size=4, max_size=4).filter(lambda counts: sum(counts) == NUM_UNITS),
    st.lists(st.integers(0, 4), min_size=4, max_size=4),
)
def test_what_memory_is_left_holds_what_nobody_keeps_beside_each_devices_own(
    counts: list[int], spare: list[int]
) -> None:
    plan = Plan(stages_from_counts(NAMES, counts))
    means = means_of(dict.fromkeys(NAMES, NUM_UNITS))
    most = {name: num * WEIGHT for name, num in zip(NAMES, spare, strict=True)}
    kept = reserves(plan, plan.stages, means, UNIT_BYTES, most)
    found = overlapping(means.problem((), 1), plan, kept, UNIT_BYTES, most)
    ready = {unit for each in kept for unit in units_of(each.stage)}
    taken: Counter[str] = Counter()
    for stage, _ in [*kept, *found]:
        taken[stage.device] += stage.num_units * WEIGHT
    assert all(taken[name] <= most[name] for name in NAMES)
    for stage, instead_of in found:
        assert {plan.device_of(unit) for unit in units_of(stage)} == {instead_of} != {stage.device}
        assert not ready.intersection(units_of(stage))
    full = [name for name in plan.devices if len(plan.devices) > 1 and taken[name] + WEIGHT <= most[name]]
    for name in full:  # who has room left has all that is beside it
        [own] = [stage for stage in plan.stages if stage.device == name]
        beside = {own.first_unit - 1, own.last_unit + 1} & set(range(NUM_UNITS))
        assert beside <= ready | {unit for each in found for unit in units_of(each.stage)}


def units_of(stage: StagePlan) -> range:
    return range(stage.first_unit, stage.last_unit + 1)
