"""Bits of units within a loss that is allowed: never more loss, never slower than one scheme for all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shardnet.errors import DoesNotFit
from shardnet.plan import Plan, StagePlan, in_runs, stages_of_owners
from shardnet.planner import evaluate
from shardnet.planner.bits import Mix, Offer, Search, _Sums, in_schemes
from shardnet.planner.planning import plan
from shardnet.planner.problem import Device, Link, Problem, Unit

SIZES = {"bfloat16": 16.0, "int8": 8.0, "int4": 5.0}
NUM_BLOCKS = 6


def problem(scheme: str, memory: list[float], speed: list[float]) -> Problem:
    size = SIZES[scheme]
    units = tuple(Unit(f"u{index}", size, 0.0, 8.0) for index in range(NUM_BLOCKS + 2))
    devices = tuple(
        Device(f"d{index}", room, tuple(size * each for _ in units))
        for index, (room, each) in enumerate(zip(memory, speed, strict=True))
    )
    names = [device.name for device in devices]
    links = tuple(Link(one, other, 0.5, 1e3) for one in names for other in names if one != other)
    return Problem(units, devices, links, "d0", pin_embedding=False, relays=False)


def search(memory: list[float], speed: list[float], losses: tuple[float, float], limit: float) -> Search:
    changes = dict(zip(SIZES, (0.0, *losses), strict=True))
    offers = {scheme: Offer(problem(scheme, memory, speed), changes[scheme]) for scheme in SIZES}
    return Search(offers, limit, "latency", 1, lambda each: plan(each, "latency", "auto", 1, time_limit_s=1.0))


def holds(mix: Mix, of: Search) -> None:
    """What every answer keeps."""
    assert of.loss_of(mix.schemes) == mix.loss <= of.limit * (1 + 1e-9)
    assert mix.schemes[0] == mix.schemes[1] and mix.schemes[-1] == mix.schemes[-2]
    posed = of.problem_of(mix.schemes)
    cost = evaluate(posed, mix.plan.stages)
    assert cost.lap_s == pytest.approx(mix.plan.lap_s)
    for device in posed.devices:
        assert cost.device_memory_bytes.get(device.name, 0.0) <= device.memory_bytes * (1 + 1e-9)


def test_all_in_few_bits_where_that_is_allowed() -> None:
    of = search([200.0], [0.1], (0.001, 0.02), 0.02)
    mix = of.best()
    holds(mix, of)
    assert set(mix.schemes) == {"int4"} and mix.loss == pytest.approx(0.02)


def test_as_many_blocks_in_few_bits_as_the_loss_allows() -> None:
    of = search([200.0], [0.1], (0.02, 0.02), 0.01)
    mix = of.best()
    holds(mix, of)
    assert mix.schemes.count("int4") == 3 and mix.schemes.count("bfloat16") == 5
    assert mix.loss == pytest.approx(1.02**0.5 - 1), "embedding or head count as a block of the six"


def test_no_loss_means_no_few_bits_though_it_is_slow() -> None:
    mix = search([200.0], [0.1], (0.001, 0.02), 0.0).best()
    assert set(mix.schemes) == {"bfloat16"} and mix.loss == 0.0


def test_slow_devices_get_few_bits_and_fast_ones_many() -> None:
    of = search([70.0, 70.0], [0.001, 1.0], (0.3, 0.3), 0.12)
    mix = of.best()
    holds(mix, of)
    [slow] = [stage for stage in mix.plan.stages if stage.device == "d1"] or [None]
    if slow is not None:
        assert "int4" in mix.schemes[slow.first_unit : slow.last_unit + 1]
    assert mix.plan.lap_s is not None and mix.plan.lap_s < plan(of.offers["bfloat16"].problem).lap_s  # type: ignore[operator]


def test_what_fits_in_few_bits_alone_is_said_with_its_loss() -> None:
    of = search([45.0], [0.1], (0.01, 0.05), 0.02)
    with pytest.raises(DoesNotFit, match=r"at most 2\.00% .*int8 1\.00%, int4 5\.00%. Allow more, or add a device"):
        of.best()
    assert set(replace(of, limit=0.05).best().schemes) == {"int4"}


@settings(max_examples=40, deadline=None)
@given(
    memory=st.lists(st.floats(20, 140), min_size=1, max_size=3),
    speed=st.lists(st.floats(0.01, 1), min_size=3, max_size=3),
    losses=st.tuples(st.floats(-0.01, 0.02), st.floats(0.0, 0.1)),
    limit=st.floats(0, 0.1),
)
def test_never_more_loss_and_never_slower_than_one_scheme_for_all(
    memory: list[float], speed: list[float], losses: tuple[float, float], limit: float
) -> None:
    of = search(memory, speed[: len(memory)], losses, limit)
    try:
        mix = of.best()
    except DoesNotFit:
        mix = None
    for scheme, offer in of.offers.items():
        if of.loss_of([scheme] * (NUM_BLOCKS + 2)) > limit:
            continue
        try:
            alone = of.solve(offer.problem)
        except DoesNotFit:
            continue
        assert mix is not None and mix.plan.lap_s is not None and alone.lap_s is not None
        assert mix.plan.lap_s <= alone.lap_s * 1.0101
    assume(mix is not None)
    assert mix is not None
    holds(mix, of)


@settings(max_examples=100, deadline=None)
@given(
    owners=st.lists(st.sampled_from(["d0", "d1", "d2"]), min_size=NUM_BLOCKS + 2, max_size=NUM_BLOCKS + 2),
    schemes=st.lists(st.sampled_from(list(SIZES)), min_size=NUM_BLOCKS + 2, max_size=NUM_BLOCKS + 2),
    watts=st.one_of(st.none(), st.lists(st.floats(0.5, 9), min_size=3, max_size=3)),
    in_flight=st.integers(1, 4),
)
def test_what_stages_cost_in_other_schemes_is_what_a_plan_of_these_costs(
    owners: list[str], schemes: list[str], watts: list[float] | None, in_flight: int
) -> None:
    """Also where a device is visited again, and where it is not known what it draws."""
    problems = {scheme: problem(scheme, [200.0] * 3, [0.1, 0.2, 0.4]) for scheme in SIZES}
    if watts is not None:
        problems = {scheme: with_power(each, watts) for scheme, each in problems.items()}
    stages = stages_of_owners(owners)
    lap_s, rate, energy_j = _Sums(problems, stages).of(schemes, in_flight)
    cost = evaluate(in_schemes(problems, schemes), stages)
    assert (lap_s, rate) == pytest.approx((cost.lap_s, cost.rate(in_flight)))
    assert (energy_j is None) == (cost.energy_j is None) == (watts is None)
    assert energy_j == pytest.approx(cost.energy_j)


def with_power(of: Problem, watts: list[float]) -> Problem:
    devices = (
        replace(device, active_w=each, radio_j_per_byte=0.01) for device, each in zip(of.devices, watts, strict=True)
    )
    return replace(of, devices=tuple(devices))


def test_a_plan_says_in_how_many_bits_its_stages_are() -> None:
    stages = (StagePlan("a", 0, 2), StagePlan("b", 3, 5))
    shown = str(Plan(stages, unit_weights=("int8",) * 4 + ("int4",) * 2, predicted_loss=0.0123))
    assert "units 0-2 (3)  int8\n" in shown and "units 3-5 (3)  int8 3, int4 4-5\n" in shown
    assert "predicted loss: 1.23% more perplexity" in shown
    assert in_runs(["int4"]) == "int4" and "int4" not in str(Plan(stages))
