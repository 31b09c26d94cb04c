"""Devices come and go all the time, on paper: every answer is whole, and what repairs cost is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from three_devices import UNITS

from shardnet.errors import BadConfiguration
from shardnet.plan import Link, Plan, stages_from_counts
from shardnet.planner.problem import Device, Problem
from shardnet.policy.rebalance import without_devices
from shardnet.simulator import Churn, Load, Recovery, Result, simulate

NUM_DEVICES = 30


def cluster() -> Problem:
    """The source, which can hold everything slowly, and thirty devices, each of which can hold it, too."""
    names = [f"d{index}" for index in range(NUM_DEVICES)]
    devices = [Device("source", 9e9, (0.02,) * 8, (0.004,) * 8)]
    devices += [Device(name, 1800e6, (0.004 + 0.0002 * index,) * 8, (0.001,) * 8) for index, name in enumerate(names)]
    links = [Link(*ends, 1e-3, 2e7) for name in names for ends in ((name, "relay"), ("relay", name))]
    links += [Link("source", "relay", 1e-3, 2e7), Link("relay", "source", 1e-3, 2e7)]
    relay = Device("relay", 0.0, (1.0,) * 8)
    return Problem(UNITS, (*devices, relay), tuple(links), "source", context_tokens=100)


def best_of(problem: Problem) -> Plan:
    """One unit at the source, and all others on the quickest device."""
    others = [each for each in problem.devices if each.memory_bytes > 0 and each.name != "source"]
    quickest = min(others, key=lambda each: each.unit_seconds)
    return Plan(stages_from_counts(["source", quickest.name], [1, 7]))


def run(churn: Churn | None, standby: str = "warm", duration_s: float = 400.0, replan: bool = False) -> Result:
    problem = cluster()
    left = problem if churn is None else without_devices(problem, churn.away_at_start(problem))
    start = best_of(left)
    load = Load(in_flight=4, prompt_tokens=60, new_tokens=40, duration_s=duration_s)
    recovery = Recovery(best_of if replan else None, standby=standby, search_every_s=60.0)
    return simulate(problem, start, load, (), recovery, churn)


def assert_whole(result: Result) -> None:
    assert result.failed is None
    assert result.num_tokens == 40 * len(result.requests)
    assert all(each.end_s is not None for each in result.requests)


CHURN = Churn(stay_s=60.0, away_s=30.0, seed=3)


@pytest.mark.parametrize("standby", ["cold", "warm", "hot"])
def test_every_answer_is_whole_whoever_comes_and_goes(standby: str) -> None:
    result = run(CHURN, standby)
    assert_whole(result)
    repairs = result.repairs
    assert repairs.num_repairs >= 4 and 0 < repairs.share < 0.5
    assert repairs.lost_s["detection"] >= 0.9 * 4 * repairs.num_repairs, "a second of each of four sessions"
    assert result.duration_s >= 400.0 and result.spans == ()


def test_the_same_seed_gives_the_same_run() -> None:
    once, again, other = run(CHURN), run(CHURN), run(replace(CHURN, seed=4))
    assert once.to_dict() == again.to_dict() != other.to_dict()


def test_what_is_kept_ready_saves_loading_and_what_is_hot_replaying() -> None:
    cold, warm, hot = (run(CHURN, standby).repairs for standby in ("cold", "warm", "hot"))
    assert warm.lost_s["load"] < cold.lost_s["load"] and hot.lost_s["moving"] < cold.lost_s["moving"]


def test_who_says_goodbye_stalls_nobody() -> None:
    rude, polite = run(CHURN), run(replace(CHURN, goodbye=1.0))
    assert_whole(polite)
    assert polite.repairs.share < rude.repairs.share / 2
    assert {each.kind for each in polite.happenings} >= {"drained"}


def test_searches_for_a_better_plan_are_few() -> None:
    assert_whole(run(CHURN, replan=True))


def test_without_churn_nothing_is_lost() -> None:
    calm = run(None)
    assert_whole(calm)
    assert calm.repairs.share == 0.0 and not calm.happenings


def test_bad_numbers_get_a_sentence() -> None:
    with pytest.raises(BadConfiguration, match="stay_s"):
        Churn(stay_s=0.0)
    with pytest.raises(BadConfiguration, match="either how many requests, or for how long"):
        Load(requests=3, duration_s=10.0)
    problem = cluster()
    with pytest.raises(BadConfiguration, match="need a duration_s"):
        simulate(problem, best_of(problem), Load(), churn=CHURN)
    with pytest.raises(BadConfiguration, match="or for less time"):
        simulate(problem, best_of(problem), Load(duration_s=1e9))
