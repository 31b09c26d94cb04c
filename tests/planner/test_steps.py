"""From one plan to another in steps, each of which has to fit while it lasts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from three_devices import three_devices

from shardnet.plan import Link, StagePlan, Stages, owners_of, stages_from_counts, stages_of_owners
from shardnet.planner.costs import evaluate, fits
from shardnet.planner.problem import Device, Problem, Unit
from shardnet.planner.steps import WORSE, steps_to

MayChange = Callable[[Sequence[StagePlan], Sequence[StagePlan]], bool]


def within(room: Mapping[str, int]) -> MayChange:
    """Devices have room for so many units, those that they give away counted until the change is over."""

    def may_change(before: Sequence[StagePlan], after: Sequence[StagePlan]) -> bool:
        held = {*enumerate(owners_of(before)), *enumerate(owners_of(after))}
        return all(number <= room[device] for device, number in Counter(device for _, device in held).items())

    return may_change


def steps(problem: Problem, old: Stages, new: Stages, may_change: MayChange) -> tuple[Stages, ...]:
    return steps_to(old, new, problem, lambda stages: evaluate(problem, stages).lap_s, may_change)


def test_what_there_is_room_for_goes_at_once() -> None:
    old, new = stages_from_counts(["a", "b"], [2, 6]), stages_from_counts(["a", "c"], [1, 7])
    assert steps(three_devices(), old, new, within({"a": 8, "b": 8, "c": 8})) == (new,)


def test_room_that_one_step_leaves_is_for_the_next() -> None:
    """`b` has to give units to `c` before it has room for those of `a`."""
    old, new = stages_from_counts(["a", "b", "c"], [3, 4, 1]), stages_from_counts(["a", "b", "c"], [1, 4, 3])
    may_change = within({"a": 3, "b": 4, "c": 4})
    assert not may_change(old, new)
    found = steps(three_devices(), old, new, may_change)
    assert found == (stages_from_counts(["a", "b", "c"], [3, 2, 3]), new)


def test_a_device_that_the_ring_comes_by_twice_is_left_in_steps() -> None:
    """Once, there was "no room for any change" then."""
    old, new = stages_of_owners("aaabbaab"), stages_of_owners("abbbbccc")
    may_change = within({"a": 5, "b": 4, "c": 4})
    assert not may_change(old, new)
    assert steps(three_devices(), old, new, may_change)[-1:] == (new,)


def test_where_everybody_is_full_there_is_no_way() -> None:
    old, new = stages_from_counts(["a", "b"], [4, 4]), stages_from_counts(["b", "a"], [4, 4])
    assert steps(replace(three_devices(), pin_embedding=False), old, new, within({"a": 4, "b": 4})) == ()


@settings(deadline=None, max_examples=100)
@given(
    old=st.lists(st.sampled_from("abc"), min_size=8, max_size=8).map(stages_of_owners),
    new=st.lists(st.sampled_from("abc"), min_size=8, max_size=8).map(stages_of_owners),
    spare=st.integers(0, 3),
)
def test_every_step_fits_while_it_lasts_and_none_is_much_worse_than_what_was(
    old: Stages, new: Stages, spare: int
) -> None:
    problem = replace(three_devices(), pin_embedding=False)
    room = {device: spare + max(owners_of(each).count(device) for each in (old, new)) for device in "abc"}
    may_change = within(room)
    found = steps(problem, old, new, may_change)
    if may_change(old, new):
        assert found == (new,)
    if not found:
        return
    assert found[-1] == new
    for before, after in pairwise((old, *found)):
        assert may_change(before, after)
        away = [
            sum(now != then for now, then in zip(owners_of(each), owners_of(new), strict=True))
            for each in (before, after)
        ]
        assert away[1] < away[0] or before == after == new
    for step in found[:-1]:
        assert fits(problem, step)
        assert evaluate(problem, step).lap_s <= (1 + WORSE) * evaluate(problem, old).lap_s


@settings(deadline=None, max_examples=60)
@given(
    borders=st.lists(st.integers(0, 8), min_size=2, max_size=2).map(sorted),
    others=st.lists(st.integers(0, 8), min_size=2, max_size=2).map(sorted),
)
def test_with_room_for_one_more_there_is_always_a_way_between_neighbours(borders: list[int], others: list[int]) -> None:
    """Where a step costs nothing, only room can be in the way."""
    problem = replace(three_devices(), pin_embedding=False)
    old, new = (
        stages_from_counts(["a", "b", "c"], [first, second - first, 8 - second]) for first, second in (borders, others)
    )
    room = {device: 1 + max(owners_of(each).count(device) for each in (old, new)) for device in "abc"}
    found = steps_to(old, new, problem, lambda _: 1.0, within(room))
    assert found[-1] == new


def test_where_looking_for_a_way_would_take_long_none_is_looked_for() -> None:
    """64 units, every one of which goes to another device."""
    names = [f"d{index}" for index in range(32)]
    units = tuple(Unit(f"u{index}", 1.0, 0, 8) for index in range(64))
    devices = tuple(Device(name, 100.0, (1e-3,) * 64) for name in names)
    links = tuple(Link(one, other, 1e-3, 1e7) for one in names for other in names if one != other)
    problem = Problem(units, devices, links, "d0", pin_embedding=False)
    old, new = stages_from_counts(names, [2] * 32), stages_from_counts([*names[1:], names[0]], [2] * 32)
    assert steps(problem, old, new, within(dict.fromkeys(names, 3))) == ()
    assert steps(problem, old, new, within(dict.fromkeys(names, 4))) == (new,)
