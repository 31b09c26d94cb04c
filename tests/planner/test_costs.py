"""What a plan costs, by hand."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from shardnet.errors import BadConfiguration
from shardnet.plan import StagePlan
from shardnet.planner import Device, Link, Problem, Unit, evaluate
from shardnet.planner.costs import broken_limit
from shardnet.planner.links import Routes

UNITS = tuple(Unit(f"u{i}", 100, 1, 1000) for i in range(4))


def three(links: list[Link], **options: object) -> Problem:
    """Three devices a, b, c on which every unit takes 10, 1 and 2 s."""
    devices = (
        Device("a", 1000, (10.0,) * 4, active_w=2, radio_j_per_byte=0.001),
        Device("b", 250, (1.0,) * 4, active_w=5),
        Device("c", 1000, (2.0,) * 4, active_w=3, radio_j_per_byte=0.002),
    )
    return Problem(UNITS, devices, tuple(links), "a", context_tokens=10, **options)  # type: ignore[arg-type]


MESH = [Link(x, y, 0.5, 1000) for x in "abc" for y in "abc" if x != y]


def test_lap_counts_stages_hops_and_the_way_back() -> None:
    problem = three(MESH, return_bytes=500)
    cost = evaluate(problem, [StagePlan("a", 0, 0), StagePlan("b", 1, 2), StagePlan("c", 3, 3)])
    assert [hop.seconds for hop in cost.hops] == [1.5, 1.5, 1.0]
    assert cost.lap_s == 10 + 2 + 2 + 1.5 + 1.5 + 1.0
    assert (cost.bottleneck_s, cost.bottleneck) == (10, "a")
    assert cost.rate(1) == pytest.approx(1 / 18)
    assert cost.rate(4) == pytest.approx(1 / 10)
    assert cost.device_memory_bytes == {"a": 110, "b": 220, "c": 110}


def test_no_hop_on_one_device() -> None:
    problem = three(MESH)
    assert evaluate(problem, [StagePlan("a", 0, 3)]).hops == ()
    there_and_back = [StagePlan("a", 0, 0), StagePlan("b", 1, 2), StagePlan("a", 3, 3)]
    assert [(hop.source, hop.target) for hop in evaluate(problem, there_and_back).hops] == [("a", "b"), ("b", "a")]
    split = evaluate(problem, [StagePlan("a", 0, 1), StagePlan("a", 2, 3)])
    assert split.lap_s == evaluate(problem, [StagePlan("a", 0, 3)]).lap_s


def test_busy_is_the_sum_of_all_visits_and_crossings() -> None:
    problem = three(MESH)
    stages = [StagePlan("a", 0, 0), StagePlan("b", 1, 1), StagePlan("a", 2, 2), StagePlan("b", 3, 3)]
    cost = evaluate(problem, stages)
    assert cost.device_busy_s == {"a": 20, "b": 2}
    assert cost.link_busy_s[("a", "b")] == 3.0
    assert cost.link_busy_s[("b", "a")] == 1.5 + 0.5 + 0.008


def test_a_relay_carries_where_it_is_faster_and_costs_nothing_else() -> None:
    links = [Link("a", "b", 9, 1e9), Link("a", "c", 1, 1000), Link("c", "b", 1, 1000), Link("b", "a", 0.1, 1e9)]
    problem = three(links)
    cost = evaluate(problem, [StagePlan("a", 0, 1), StagePlan("b", 2, 3)])
    assert cost.hops[0].seconds == 4.0
    assert "c" not in cost.device_busy_s
    assert "c" not in cost.device_memory_bytes
    assert cost.device_energy_j["c"] == pytest.approx(2 * 1000 * 0.002)  # it receives and sends
    assert cost.link_busy_s[("c", "b")] == 2.0
    straight = replace(problem, relays=False)
    assert evaluate(straight, [StagePlan("a", 0, 1), StagePlan("b", 2, 3)]).hops[0].links == (links[0],)
    assert straight.routes.links("c", "a", 8) is None


def test_a_direct_link_wins_a_tie() -> None:
    routes = Routes([Link("a", "b", 2.0, 1e30), Link("a", "c", 1.0, 1e30), Link("c", "b", 1.0, 1e30)])
    assert routes.links("a", "b", 8) == (Link("a", "b", 2.0, 1e30),)
    assert routes.links("b", "a", 8) is None


def test_the_route_depends_on_the_payload() -> None:
    """A quick thin link carries a token id, a slow wide detour a hidden state."""
    thin, wide = Link("a", "b", 0.001, 1e4), [Link("a", "c", 0.01, 1e9), Link("c", "b", 0.01, 1e9)]
    routes = Routes([thin, *wide])
    assert routes.links("a", "b", 8) == (thin,)
    assert routes.links("a", "b", 1e5) == tuple(wide)


def test_energy_is_power_times_busy_time_and_radio() -> None:
    problem = three(MESH, return_bytes=0)
    cost = evaluate(problem, [StagePlan("a", 0, 0), StagePlan("c", 1, 3)])
    assert cost.energy_j == pytest.approx(2 * 10 + 3 * 6 + 1000 * (0.001 + 0.002))


def test_energy_is_unknown_without_power() -> None:
    devices = (Device("a", 1e9, (1.0,) * 4),)
    assert evaluate(Problem(UNITS, devices, (), "a"), [StagePlan("a", 0, 3)]).energy_j is None


def test_limits_are_told_with_both_numbers() -> None:
    problem = three(MESH)
    stages = [StagePlan("a", 0, 0), StagePlan("b", 1, 3)]
    assert broken_limit(problem, stages, evaluate(problem, stages)) == "b would need 330 B and offers 250 B"
    away = [StagePlan("c", 0, 3)]
    assert broken_limit(problem, away, evaluate(problem, away)) == "the embedding must stay on a"


@pytest.mark.parametrize(
    "stages",
    [
        [],
        [StagePlan("a", 0, 2)],
        [StagePlan("a", 1, 3)],
        [StagePlan("a", 0, 1), StagePlan("b", 3, 3)],
        [StagePlan("z", 0, 3)],
    ],
)
def test_stages_that_are_no_plan_are_refused(stages: list[StagePlan]) -> None:
    with pytest.raises(BadConfiguration):
        evaluate(three(MESH), stages)


def test_no_way_is_an_error() -> None:
    problem = three([Link("a", "b", 1, 1), Link("a", "c", 1, 1)])
    with pytest.raises(BadConfiguration, match="no way from 'b' to 'c'"):
        evaluate(problem, [StagePlan("a", 0, 0), StagePlan("b", 1, 1), StagePlan("c", 2, 3)])


def test_large_clusters_take_the_same_routes() -> None:
    """Above some size routes are searched in arrays: the same links come out."""
    rng = random.Random(2)
    names = [f"d{i}" for i in range(80)]
    links = [Link(a, b, rng.uniform(0.001, 0.1), rng.uniform(1e5, 1e8)) for a in names for b in names if a != b]
    links = [link for link in links if rng.random() < 0.3]
    large, small = Routes(links), Routes(links)
    for _ in range(200):
        source, target = rng.sample(names, 2)
        size = rng.choice([8, 1e4, 1e6])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("shardnet.planner.links.MOST_SPARSE", 1000)
            expected = small.links(source, target, size)
        assert large.links(source, target, size) == expected
