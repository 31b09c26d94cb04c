"""What follows on paper when devices leave, freeze and come, in any order, and while units are being loaded."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from three_devices import AB, best_plan, three_devices

from shardnet.policy.membership import Limits
from shardnet.policy.rebalance import Policy
from shardnet.simulator import Event, Load, Recovery, Result, simulate

PROBLEM = three_devices()
COLD = Recovery(best_plan, standby="cold")
BECOMES = {"there": ("kill", "leave", "freeze", "slow"), "gone": ("join",), "frozen": ("thaw", "kill")}
AFTER = {"kill": "gone", "leave": "gone", "freeze": "frozen", "slow": "there", "join": "there", "thaw": "there"}


def kinds(result: Result) -> list[str]:
    return [each.kind for each in result.happenings]


def test_a_loss_during_a_repair_breaks_it_off_and_another_one_begins() -> None:
    """Once, c left while it was loading what b had held: nobody planned again, and the ring stood still."""
    events = [Event(0.33, "kill", "b"), Event(1.5, "kill", "c"), Event(2.0, "join", "b")]
    result = simulate(PROBLEM, AB, Load(in_flight=2, new_tokens=200), events, COLD)
    assert result.failed is None and result.num_tokens == 400
    told = [(each.kind, each.device) for each in result.happenings if each.kind != "event"]
    assert told[:2] == [("lost", "b"), ("recovered", "")]
    assert [plan.devices for plan in result.plans][:2] == [("a", "b"), ("a",)]


def test_what_is_kept_ready_needs_no_load_and_what_is_hot_hardly_any_replay() -> None:
    events, load = [Event(30.0, "kill", "b")], Load(prompt_tokens=400, new_tokens=4000)
    large, gaps = three_devices(memory_units=16), {}
    for standby in ("cold", "warm", "hot"):
        result = simulate(large, AB, load, events, replace(COLD, standby=standby, detect_s=0.1, rebalance=False))
        assert result.failed is None and result.num_tokens == 4000
        gaps[standby] = result.repairs.lost_s
    assert gaps["cold"]["load"] == pytest.approx(3.5) and gaps["warm"]["load"] == gaps["hot"]["load"] == 0.0
    assert gaps["warm"]["moving"] == pytest.approx(gaps["cold"]["moving"])
    assert gaps["warm"]["moving"] > 10 * gaps["hot"]["moving"] > 0
    early = simulate(large, AB, load, [Event(12.0, "kill", "b")], replace(COLD, standby="warm", detect_s=0.1))
    assert early.repairs.lost_s["load"] == pytest.approx(1.4), "begun 10 s after the load, and not there yet"


def test_who_is_silent_is_replaced_and_has_units_again_later() -> None:
    events = [Event(1.0, "freeze", "b"), Event(9.0, "thaw", "b")]
    result = simulate(PROBLEM, AB, Load(new_tokens=2500), events, COLD)
    assert result.failed is None and result.num_tokens == 2500
    assert kinds(result) == ["event", "suspected", "recovered", "event", "back", "rebalanced"]
    assert [plan.devices for plan in result.plans] == [("a", "b"), ("a", "c"), ("a", "b")]
    assert result.plans[-1].stages == AB.stages


def test_who_is_silent_for_too_long_is_struck_off_and_joins_anew() -> None:
    events = [Event(1.0, "freeze", "b"), Event(9.0, "thaw", "b")]
    limits = Limits(lost_after_s=5.0)
    result = simulate(PROBLEM, AB, Load(new_tokens=2500), events, replace(COLD, limits=limits))
    assert result.failed is None and "back" not in kinds(result) and "b" in result.plans[-1].devices


def test_layers_leave_a_device_whose_links_became_slow() -> None:
    """In a cluster of processes, too, where nothing goes round a slow link over others."""
    events = [Event(5.0, "slow", "b", to, factor=30.0, both_ways=True) for to in "ac"]
    straight = replace(PROBLEM, relays=False)
    result = simulate(straight, AB, Load(new_tokens=1000), events, replace(COLD, is_source_apart=True))
    assert kinds(result) == ["event", "event", "rebalanced"]
    assert result.plans[-1].devices == ("a", "c")


def test_a_session_in_its_prompt_goes_on_behind_the_chunks_that_were_read() -> None:
    load, events = Load(prompt_tokens=4000, new_tokens=5, prefill_chunk=50), [Event(3.0, "kill", "b")]
    calm, lost = simulate(PROBLEM, AB, load), simulate(PROBLEM, AB, load, events, COLD)
    read = sum(span.num_tokens for span in calm.spans if span.resource == ("a",) and "prefill" in span.label)
    again = sum(span.num_tokens for span in lost.spans if span.resource == ("a",) and "prefill" in span.label)
    assert lost.num_tokens == 5 and read == 4000 < again < 6000


def test_a_planned_move_stalls_no_session_for_long() -> None:
    events = [Event(5.0, "slow", "b", factor=9.0)]
    result = simulate(PROBLEM, AB, Load(prompt_tokens=400, new_tokens=1500), events, COLD)
    assert kinds(result) == ["event", "rebalanced"] and result.repairs.num_repairs == 0
    before = [lap.seconds for lap in result.laps if lap.start_s > 5.0 and lap.end_s < result.happenings[1].at_s]
    after = [lap.seconds for lap in result.laps if lap.start_s > result.happenings[1].at_s - 1.0]
    assert max(after) < 2 * max(before), "what moved was loaded and copied while the ring went on"


def random_run(seed: int) -> tuple[Load, list[Event], Recovery]:
    chance = random.Random(seed)
    state, events, at_s = dict.fromkeys("bc", "there"), [], 0.0
    for _ in range(chance.randint(1, 12)):
        at_s += chance.choice((0.01, 0.3, 1.0, 3.0, 12.0)) * chance.uniform(0.5, 1.5)
        device = chance.choice("bc")
        kind = chance.choice(BECOMES[state[device]])
        state[device] = AFTER[kind]
        events.append(Event(at_s, kind, device, factor=chance.choice((1.0, 8.0)) if kind == "slow" else 1.0))
    recovery = Recovery(best_plan, Policy(cool_down_s=2.0), standby=chance.choice(("cold", "warm", "hot")))
    return Load(chance.randint(1, 3), None, chance.choice((0, 300)), 600), events, recovery


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9))
def test_whatever_happens_every_answer_is_whole(seed: int) -> None:
    load, events, recovery = random_run(seed)
    result = simulate(PROBLEM, AB, load, events, recovery)
    assert result.failed is None, "a alone can hold all"
    assert result.num_tokens == load.in_flight * 600 and len(result.requests) == load.in_flight
    assert [plan.version for plan in result.plans] == list(range(1, len(result.plans) + 1))
    assert 0 <= result.repairs.share < 1
