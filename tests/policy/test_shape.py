"""Which stages become one, which give units up, and what is loaded: each unit once, and nothing that is there anew."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.plan import Plan, StagePlan, stages_from_counts
from shardnet.policy.shape import Held, Piece, Section, are_level, missing, pieces
from shardnet.transport.messages import SessionStanding


def test_lost_units_become_part_of_the_stages_beside_them() -> None:
    held = [Held(StagePlan("a", 0, 2)), Held(StagePlan("c", 7, 9))]
    plan = Plan((StagePlan("a", 0, 4), StagePlan("c", 5, 9)))
    assert pieces(held, plan, lambda _: True) == (
        Piece(plan.stages[0], (Section(StagePlan("a", 0, 2), 0), Section(StagePlan("a", 3, 4), None))),
        Piece(plan.stages[1], (Section(StagePlan("c", 5, 6), None), Section(StagePlan("c", 7, 9), 1))),
    )


def test_what_has_not_caught_up_stays_a_stage_of_its_own() -> None:
    plan = Plan((StagePlan("a", 0, 4), StagePlan("c", 5, 9)))
    held = [Held(StagePlan("a", 0, 2)), Held(StagePlan("a", 3, 4), is_level=False), Held(StagePlan("c", 7, 9))]
    found = pieces(held, plan)
    assert [piece.plan.units for piece in found] == ["0-2", "3-4", "5-6", "7-9"]
    assert missing(found) == (StagePlan("c", 5, 6),)
    level = pieces([each._replace(is_level=True) for each in held], plan, lambda _: True)
    assert [len(piece.sections) for piece in level] == [2, 2]


def test_a_stage_gives_up_what_others_get() -> None:
    held = [Held(StagePlan("a", 0, 5)), Held(StagePlan("b", 6, 7))]
    plan = Plan((StagePlan("a", 1, 2), StagePlan("b", 3, 7)))
    plan = Plan((StagePlan("b", 0, 0), *plan.stages))
    found = pieces(held, plan, lambda _: True)
    assert [(piece.plan.device, [tuple(section)[1] for section in piece.sections]) for piece in found] == [
        ("b", [None]),
        ("a", [0]),
        ("b", [None, 1]),
    ]
    assert found[1].sections[0].plan == StagePlan("a", 1, 2)


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Held], Plan]:
    """What is there after rings that were broken off anywhere: overlapping, with gaps; and a plan, one run a device."""
    num_units = draw(st.integers(1, 12))
    devices = draw(st.permutations(["a", "b", "c", "d"]))[: draw(st.integers(1, min(4, num_units)))]
    borders = (
        sorted(draw(st.sets(st.integers(1, num_units - 1), min_size=len(devices) - 1, max_size=len(devices) - 1)))
        if num_units > 1
        else []
    )
    counts = [end - first for first, end in zip([0, *borders], [*borders, num_units], strict=True)]
    held = []
    for _ in range(draw(st.integers(0, 7))):
        first = draw(st.integers(0, num_units - 1))
        last = draw(st.integers(first, num_units - 1))
        held.append(Held(StagePlan(draw(st.sampled_from("abcde")), first, last), draw(st.booleans())))
    return held, Plan(stages_from_counts(devices[: len(counts)], counts))


@settings(max_examples=600, deadline=None)
@given(situations(), st.booleans())
def test_each_unit_comes_once_from_where_it_is(situation: tuple[list[Held], Plan], is_idle: bool) -> None:
    held, plan = situation
    found = pieces(held, plan, lambda _: is_idle)
    sections = [section for piece in found for section in piece.sections]
    units = [unit for section in sections for unit in range(section.plan.first_unit, section.plan.last_unit + 1)]
    assert units == list(range(plan.num_units)), "every unit once, in order"
    used = [section.held for section in sections if section.held is not None]
    assert len(used) == len(set(used))
    for section in sections:
        for unit in (section.plan.first_unit, section.plan.last_unit):
            assert plan.device_of(unit) == section.plan.device
            if section.held is not None:
                stage = held[section.held].plan
                assert stage.device == section.plan.device and stage.first_unit <= unit <= stage.last_unit
    loaded = {unit for stage in missing(found) for unit in range(stage.first_unit, stage.last_unit + 1)}
    is_there = {
        unit
        for stage, _ in held
        for unit in range(stage.first_unit, stage.last_unit + 1)
        if plan.device_of(unit) == stage.device
    }
    assert loaded == set(units) - is_there, "nothing that is there is loaded"
    for piece in found:
        assert piece.plan.first_unit == piece.sections[0].plan.first_unit
        assert piece.plan.last_unit == piece.sections[-1].plan.last_unit
        level = [is_idle if section.held is None else held[section.held].is_level for section in piece.sections]
        assert all(level) or len(level) == 1
    again = [Held(piece.plan) for piece in found]
    assert pieces(again, plan) == tuple(
        Piece(
            stage,
            tuple(Section(piece.plan, index) for index, piece in enumerate(found) if piece.plan.device == stage.device),
        )
        for stage in plan.stages
    ), "what was apart becomes one when it has caught up"


def standing(session: int, length: int) -> dict[int, SessionStanding]:
    return {session: SessionStanding(session, length, 0, ())}


def test_stages_become_one_when_they_stand_at_the_same_tokens_or_nearly() -> None:
    assert are_level([{}, {}])
    assert not are_level([standing(1, 5), {}])
    assert are_level([standing(1, 9), standing(1, 5)])
    assert not are_level([standing(1, 10), standing(1, 5)])
    assert not are_level([standing(1, 10) | standing(2, 3), standing(1, 10) | standing(2, 30)])
