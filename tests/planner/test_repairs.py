from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from three_devices import UNITS, three_devices

from shardnet.errors import DoesNotFit
from shardnet.plan import Link, Plan, StagePlan, stages_from_counts
from shardnet.planner.costs import fits
from shardnet.planner.problem import Device, Problem
from shardnet.planner.repairs import repaired, repairs
from shardnet.policy.rebalance import moves, without_devices


def devices_with_room(rooms: dict[str, int]) -> Problem:
    """As three_devices, with room for so many of the eight units on each."""
    devices = tuple(Device(name, room * 102e6, (2e-3,) * 8) for name, room in rooms.items())
    links = tuple(Link(x, y, 1e-3, 10e6) for x in rooms for y in rooms if x != y)
    return Problem(UNITS, devices, links, next(iter(rooms)), context_tokens=1000, pin_embedding=False)


def test_repairs_move_only_what_was_lost() -> None:
    old = Plan(stages_from_counts(["a", "b", "c"], [2, 3, 3]))
    left = without_devices(devices_with_room({"a": 4, "b": 6, "d": 4, "c": 3}), ["c"])
    found = repairs(old, left)
    assert found
    for stages in found:
        assert {move.unit for move in moves(old, Plan(stages))} <= {5, 6, 7}
        assert fits(left, stages)
    cut = (StagePlan("a", 0, 2), StagePlan("c", 3, 7))
    wide = without_devices(three_devices(), ["b"])
    assert cut in repairs(old, wide)


def test_a_repair_over_links_that_there_are_not_is_none() -> None:
    left = without_devices(three_devices(), ["b"])
    left = replace(left, links=tuple(link for link in left.links if link.source != "c"))
    found = repairs(Plan(stages_from_counts(["a", "b"], [1, 7])), left)
    assert set(found) == {stages_from_counts(["a"], [8])}


def test_what_fits_nowhere_whole_is_cut_among_those_who_have_room_in_the_ring_or_not() -> None:
    """Once, a conversation ended though there was room: part of it on a device that was not in the ring."""
    old = Plan(stages_from_counts(["a", "b"], [3, 5]))
    left = without_devices(devices_with_room({"a": 5, "b": 8, "unused": 3}), ["b"])
    assert repairs(old, left) == []
    assert repaired(old, left).stages == (StagePlan("a", 0, 4), StagePlan("unused", 5, 7))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_where_there_is_room_there_is_a_repair(data: st.DataObject) -> None:
    names = ["a", "b", "c", "d", "e"]
    counts = data.draw(st.sampled_from([each for each in product(range(5), repeat=5) if sum(each) == 8]))
    old = Plan(stages_from_counts(names, counts))
    rooms = {name: count + data.draw(st.integers(0, 3)) for name, count in zip(names, counts, strict=True)}
    lost = data.draw(st.lists(st.sampled_from(names[1:]), min_size=1, max_size=2, unique=True))
    left = without_devices(devices_with_room(rooms), lost)
    held = sum(stage.num_units for stage in old.stages if stage.device not in lost)
    free = sum(rooms[name] for name in names if name not in lost) - held
    if free < 8 - held:
        with pytest.raises(DoesNotFit, match="no room"):
            repaired(old, left)
        return
    new = repaired(old, left)
    assert fits(left, new.stages)
    assert {move.unit for move in moves(old, new)} == {
        unit for stage in old.stages if stage.device in lost for unit in range(stage.first_unit, stage.last_unit + 1)
    }
