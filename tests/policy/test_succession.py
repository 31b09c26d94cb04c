"""Who takes over, in random situations: nothing goes to who is lost, and nothing is given up for who may come back."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

from four_devices import NAMES, NUM_UNITS, held, means_of
from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.plan import Plan, stages_from_counts
from shardnet.planner.least_moves import ways_of
from shardnet.policy.succession import NONE, Away, Verdict, drained, succeed

subsets = st.frozensets(st.sampled_from(NAMES))
ways = st.frozensets(st.sampled_from(list(permutations(NAMES, 2))), max_size=2)
aways = st.builds(Away, lost=subsets, silent=subsets, full=subsets, cut=ways, late=ways).map(
    lambda away: Away(away.lost, away.silent - away.lost, away.full, away.cut, away.late - away.cut)
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Plan, Away, dict[str, int], int]:
    counts = draw(st.lists(st.integers(0, 4), min_size=4, max_size=4).filter(lambda each: 0 < sum(each) <= NUM_UNITS))
    counts[counts.index(max(counts))] += NUM_UNITS - sum(counts)
    order = draw(st.permutations(NAMES))
    plan = Plan(stages_from_counts(order, counts))
    capacity = {name: held(plan)[name] + draw(st.integers(0, 8)) for name in NAMES}
    return plan, draw(aways), capacity, draw(st.sampled_from((0, 10)))


@settings(deadline=None)
@given(situations())
def test_what_is_lost_goes_to_others_and_nobody_gets_more_than_he_can_hold(
    situation: tuple[Plan, Away, dict[str, int], int],
) -> None:
    plan, away, capacity, num_tokens = situation
    verdict = succeed(plan, None, away, means_of(capacity, num_tokens))
    if verdict.is_over:
        assert verdict.why_not
        assert away.lost.intersection(plan.devices) or away.cut & ways_of(plan.stages)
        return
    after = verdict.plan
    assert [unit for stage in after.stages for unit in range(stage.first_unit, stage.last_unit + 1)] == list(
        range(NUM_UNITS)
    )
    assert away.lost.isdisjoint(after.devices)
    assert ways_of(after.stages).isdisjoint(away.cut)
    assert verdict.waits_for == away.silent.intersection(after.devices)
    assert all(count <= capacity[name] for name, count in held(after).items())
    assert all(held(after)[name] <= held(plan)[name] for name in away.full)


@settings(deadline=None)
@given(situations())
def test_silence_alone_ends_nothing_and_costs_no_session(situation: tuple[Plan, Away, dict[str, int], int]) -> None:
    plan, away, capacity, num_tokens = situation
    verdict = succeed(plan, None, Away(silent=away.silent, late=away.late), means_of(capacity, num_tokens))
    assert not verdict.is_over
    if verdict.plan is not plan:
        assert num_tokens == 0
        assert away.silent.intersection(plan.devices) or away.late & ways_of(plan.stages)


@settings(deadline=None)
@given(situations())
def test_asked_again_it_says_the_same(situation: tuple[Plan, Away, dict[str, int], int]) -> None:
    plan, away, capacity, num_tokens = situation
    means = means_of(capacity, num_tokens)
    first = succeed(plan, None, away, means)
    if not first.is_over:
        coming = None if first.plan is plan else first.plan
        again = succeed(plan, coming, away, means)
        assert (again.plan, again.waits_for) == (first.plan, first.waits_for)


@settings(deadline=None)
@given(situations())
def test_where_all_are_there_again_what_is_coming_comes(situation: tuple[Plan, Away, dict[str, int], int]) -> None:
    plan, away, capacity, num_tokens = situation
    first = succeed(plan, None, away, means_of(capacity, num_tokens))
    assert succeed(plan, first.plan, Away(), means_of(capacity)) == Verdict(first.plan)


def test_who_is_silent_takes_over_where_nobody_else_has_room() -> None:
    plan = Plan(stages_from_counts(["a", "b"], [4, 4]))
    capacity = {"a": 5, "b": 4, "c": 8, "d": 0}
    verdict = succeed(plan, None, Away(frozenset("b"), frozenset("c")), means_of(capacity))
    assert not verdict.is_over
    assert verdict.waits_for == {"c"}
    assert held(verdict.plan) == {"a": 4, "c": 4}


def test_who_is_silent_is_replaced_where_others_have_room_for_the_sessions() -> None:
    plan = Plan(stages_from_counts(["a", "b"], [4, 4]))
    roomy = dict.fromkeys(NAMES, 8)
    replaced = succeed(plan, None, Away(silent=frozenset("b")), means_of(roomy, num_tokens=10, most_tokens=10))
    assert "b" not in replaced.plan.devices
    waited = succeed(plan, None, Away(silent=frozenset("b")), means_of(roomy, num_tokens=10, most_tokens=9))
    assert waited.plan is plan
    assert waited.waits_for == {"b"}


def test_a_way_that_may_be_slow_only_is_kept_where_there_is_no_other() -> None:
    plan = Plan(stages_from_counts(["a", "b"], [4, 4]))
    tight = {"a": 4, "b": 4, "c": 0, "d": 0}
    late = succeed(plan, None, Away(late=frozenset({("a", "b")})), means_of(tight))
    assert late.plan is plan
    assert not late.is_over
    assert succeed(plan, None, Away(cut=frozenset({("a", "b")})), means_of(tight)).is_over
    roomy = dict.fromkeys(NAMES, 8)
    assert succeed(plan, None, Away(late=frozenset({("a", "b")})), means_of(roomy)).plan is not plan


@settings(deadline=None)
@given(situations())
def test_where_standby_is_none_nobody_takes_over_but_from_who_leaves(
    situation: tuple[Plan, Away, dict[str, int], int],
) -> None:
    plan, away, capacity, num_tokens = situation
    means = replace(means_of(capacity, num_tokens), standby=NONE)
    verdict = succeed(plan, None, away, means)
    assert verdict.plan is plan
    assert verdict.is_over == bool(away.lost.intersection(plan.devices) or away.cut & ways_of(plan.stages))
    roomy = replace(means_of(dict.fromkeys(NAMES, NUM_UNITS)), standby=NONE)
    left = drained(plan.devices[0], plan, Away(), roomy)
    assert left is not None and plan.devices[0] not in left.devices


def test_who_takes_over_goes_over_no_cut_that_was_none_of_the_ring_before() -> None:
    """Once, only another look, when it was being gone over to, went round it."""
    plan = Plan(stages_from_counts(["c", "d"], [7, 1]))
    away = Away(silent=frozenset("c"), late=frozenset({("b", "d")}))
    verdict = succeed(plan, None, away, means_of({"a": 0, "b": 8, "c": 7, "d": 1}))
    assert verdict.plan.devices == ("b",)
