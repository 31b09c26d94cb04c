"""Where nothing jitters the simulator must agree with the closed formulas; where things happen it must recover."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from three_devices import AB, best_plan, three_devices

from shardnet.errors import BadConfiguration
from shardnet.plan import Link, Plan, StagePlan, stages_from_counts
from shardnet.planner.chunks import LEAST_TOKENS
from shardnet.planner.costs import evaluate
from shardnet.planner.problem import Device, Problem, Unit
from shardnet.policy.rebalance import Policy
from shardnet.simulator import Event, Load, Recovery, parse_event, read_events, simulate
from shardnet.simulator.ring import Roads, decode_legs, prefill_legs, prefill_seconds


def random_case(seed: int, *, revisit: bool) -> tuple[Problem, Plan]:
    """A random problem with links between all devices, and a random plan on some of them."""
    chance = random.Random(seed)
    num_devices = chance.randint(2 if revisit else 1, 5)
    num_units = chance.randint(num_devices + 2, 22)
    names = [f"d{index}" for index in range(num_devices)]
    units = tuple(Unit(f"u{i}", 1e6, 10, chance.choice([1e3, 1e4, 1e5])) for i in range(num_units))
    devices = tuple(Device(name, 1e12, tuple(chance.uniform(1e-4, 5e-3) for _ in units)) for name in names)
    links = tuple(
        Link(a, b, chance.uniform(1e-4, 5e-3), 10 ** chance.uniform(6, 8.5)) for a in names for b in names if a != b
    )
    order = chance.sample(names[1:], chance.randint(1 if revisit else 0, num_devices - 1))
    order = ["d0", *order, *(["d0"] if revisit else [])]
    cuts = [0, *sorted(chance.sample(range(1, num_units), len(order) - 1)), num_units]
    stages = tuple(StagePlan(name, cuts[i], cuts[i + 1] - 1) for i, name in enumerate(order))
    return Problem(units, devices, links, "d0", context_tokens=100), Plan(stages)


def visits_once(problem: Problem, plan: Plan) -> bool:
    used = [leg.resource for leg in decode_legs(problem, plan.stages)]
    return len(set(used)) == len(used)


def test_lap_and_rate_agree_with_the_closed_formulas() -> None:
    """The bar is 1%. Rings that use every device and link once agree to rounding."""
    seen = 0
    for seed in range(150):
        problem, plan = random_case(seed, revisit=False)
        if not visits_once(problem, plan):
            continue
        cost = evaluate(problem, plan.stages)
        for in_flight in (1, 2, 3, 7):
            result = simulate(problem, plan, Load(in_flight=in_flight, new_tokens=40))
            assert result.rate_per_s == pytest.approx(cost.rate(in_flight), rel=0.001)
            assert result.lap_s == pytest.approx(in_flight / cost.rate(in_flight), rel=0.001)
            seen += 1
    assert seen > 500


def test_a_ring_that_visits_a_device_twice_stays_under_the_formula_and_mostly_reaches_it() -> None:
    """There the formula is a bound: two visits of a lap can want the device at the same moment, whatever the order."""
    errors = []
    for seed in range(60):
        problem, plan = random_case(seed, revisit=True)
        cost = evaluate(problem, plan.stages)
        alone = simulate(problem, plan, Load(new_tokens=20))
        assert alone.lap_s == pytest.approx(cost.lap_s, rel=1e-9)
        for in_flight in (2, 3, 8):
            result = simulate(problem, plan, Load(in_flight=in_flight, new_tokens=60))
            assert result.rate_per_s is not None
            errors.append(1 - result.rate_per_s / cost.rate(in_flight))
    assert min(errors) > -0.001
    assert sum(error < 0.01 for error in errors) >= 0.95 * len(errors)
    assert max(errors) < 0.3


def test_a_prompt_that_is_alone_fills_the_pipeline_in_chunks() -> None:
    problem = three_devices()
    chunked = simulate(problem, AB, Load(prompt_tokens=512, new_tokens=4, prefill_chunk=512))
    # One unit of 0.8 ms on `a`; the hidden states; 6 units and the head on `b`; the token comes back.
    whole_s = 512 * 0.8e-3 + (1e-3 + 512 * 2000 / 10e6) + 512 * 6 * 0.2e-3 + 1e-3 + (1e-3 + 8 / 10e6)
    legs = prefill_legs(problem, AB.stages, Roads(problem), 512, True, 512)
    assert sum(leg.seconds for leg in legs) == pytest.approx(whole_s)
    assert chunked.time_to_first_token_s and chunked.time_to_first_token_s < 0.7 * whole_s
    assert chunked.num_tokens == 4 and len(chunked.laps) == 3


def test_a_chunk_takes_what_its_tokens_do_and_what_one_takes_alone() -> None:
    """A small one is dearer for each token: its weights are read for few."""
    device = replace(three_devices().devices[0], prefill_unit_seconds=(1e-4,) * 8)
    problem = replace(three_devices(), devices=(device, *three_devices().devices[1:]))
    one, some, many = (prefill_seconds(problem, device, 1, tokens, 128) for tokens in (1, 32, 128))
    assert one == pytest.approx(device.unit_seconds[1]) and many == pytest.approx(128e-4)
    assert one < some < many and some / 32 > 1.1 * many / 128


def test_a_run_is_refused_for_the_chunks_that_its_prompts_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for as many as they could have: long runs were refused that are as short as before."""
    assert Load(requests=30_000, prompt_tokens=2048, new_tokens=1).num_steps == 30_000 * 17
    asked = Load(requests=3, prompt_tokens=512, new_tokens=1)
    run = simulate(three_devices(), AB, asked)
    num_chunks = sum("stage 0 prefill" in span.label for span in run.spans)
    assert 4 * 3 < num_chunks < 3 * 512 // LEAST_TOKENS
    num_legs = len(decode_legs(three_devices(), AB.stages)) * (num_chunks + asked.num_requests)
    monkeypatch.setattr("shardnet.simulator.load.MAX_LEGS", num_legs)
    assert simulate(three_devices(), AB, asked).num_tokens == 3
    monkeypatch.setattr("shardnet.simulator.load.MAX_LEGS", num_legs - 1)
    with pytest.raises(BadConfiguration, match=f"would cross {num_legs} stages"):
        simulate(three_devices(), AB, asked)


def test_every_request_is_answered() -> None:
    result = simulate(three_devices(), AB, Load(in_flight=3, requests=7, prompt_tokens=50, new_tokens=5))
    assert result.num_tokens == 35 and len(result.requests) == 7 and result.failed is None
    assert sum(result.busy_s.values()) > 0


def test_jitter_is_seeded_and_slows_a_full_pipeline() -> None:
    problem = three_devices()
    still = simulate(problem, AB, Load(in_flight=3, new_tokens=200))
    load = Load(in_flight=3, new_tokens=200, jitter=0.3, seed=5)
    once, again = simulate(problem, AB, load), simulate(problem, AB, load)
    assert once.to_dict() == again.to_dict()
    assert simulate(problem, AB, replace(load, seed=6)).lap_s != once.lap_s
    assert once.rate_per_s and still.rate_per_s and 0.7 * still.rate_per_s < once.rate_per_s < still.rate_per_s


def test_a_device_that_slows_down_slows_the_ring_until_it_is_rebalanced() -> None:
    problem, events = three_devices(), [Event(1.0, "slow", "b", factor=8.0)]
    load = Load(new_tokens=800)
    fixed = simulate(problem, AB, load, events)
    policy = Policy(min_gain=0.1, hold_s=1.0, cool_down_s=5.0)
    moved = simulate(problem, AB, load, events, Recovery(best_plan, policy))
    assert len(fixed.plans) == 1 and len(moved.plans) == 2
    assert "c" in moved.plans[1].devices and "b" not in moved.plans[1].devices
    assert moved.num_tokens == fixed.num_tokens == 800
    assert moved.tokens_per_s > 1.5 * fixed.tokens_per_s
    phases = moved.phases()
    assert phases[-1].mean_lap_s and phases[1].mean_lap_s and phases[-1].mean_lap_s < phases[1].mean_lap_s


def test_without_a_gain_nothing_moves() -> None:
    events = [Event(1.0, "slow", "b", factor=1.05)]
    result = simulate(three_devices(), AB, Load(new_tokens=500), events, Recovery(best_plan))
    assert len(result.plans) == 1


def test_a_lost_device_is_replaced_and_no_token_is_lost() -> None:
    problem, events = three_devices(), [Event(0.5, "kill", "b")]
    load = Load(in_flight=2, prompt_tokens=40, new_tokens=100)
    result = simulate(problem, AB, load, events, Recovery(best_plan, detect_s=0.5))
    assert result.failed is None and result.num_tokens == 200
    assert [plan.version for plan in result.plans] == [1, 2]
    assert "b" not in result.plans[1].devices
    longest = max(result.laps, key=lambda lap: lap.seconds)
    # noticed after 0.5 s, then 700 MB at 200 MB/s
    assert 3.5 < longest.seconds < 6
    assert [each.what for each in result.happenings] == [
        "kill b",
        "b is lost (it is gone without a word): its units 1-7 go to c",
        "plan 2 is in force, after 3.50 s",
    ]
    lost_s, moving_s = result.repairs.lost_s, result.repairs.lost_s["moving"]
    assert lost_s == {"detection": pytest.approx(1.0), "waiting": 0.0, "load": pytest.approx(7.0), "moving": moving_s}
    assert 0 < moving_s < 1 and result.repairs.num_repairs == 1 and result.repairs.num_delayed == 2


def test_a_loss_that_nothing_can_replace_ends_the_run_with_the_reason() -> None:
    problem, events = three_devices(memory_units=7), [Event(0.2, "leave", "b"), Event(0.3, "leave", "c")]
    result = simulate(problem, AB, Load(new_tokens=500), events, Recovery(best_plan))
    assert result.failed is not None and "b is lost (it has left), and with it units 1-7" in result.failed
    assert "the others cannot take over: the model needs 0.75 GiB" in result.failed and 0 < result.num_tokens < 500
    gone = simulate(problem, AB, Load(new_tokens=500), [Event(0.2, "leave", "a")], Recovery(best_plan))
    assert gone.failed == "the source a left, and the prompt with it"


def test_a_device_that_joins_is_used_when_it_helps() -> None:
    problem = three_devices()
    start = Plan(stages_from_counts(["a", "c"], [2, 6]))
    events = [Event(1.0, "join", "b")]
    result = simulate(problem, start, Load(new_tokens=1500), events, Recovery(best_plan, Policy(hold_s=0.5)))
    assert "b" in result.plans[-1].devices and result.num_tokens == 1500
    with pytest.raises(BadConfiguration, match="joins later"):
        simulate(problem, AB, Load(), events)


def test_a_device_that_comes_back_at_once_has_still_lost_its_shard() -> None:
    events = [Event(0.5, "leave", "b"), Event(0.6, "join", "b")]
    result = simulate(three_devices(), AB, Load(new_tokens=2000), events, Recovery(best_plan, Policy(hold_s=0.5)))
    assert result.failed is None and result.num_tokens == 2000
    assert "b" not in result.plans[1].devices and "b" in result.plans[-1].devices


def test_a_slow_link_is_gone_round() -> None:
    events = [Event(0.5, "slow", "a", to="b", factor=30)]
    result = simulate(three_devices(), AB, Load(new_tokens=800), events, Recovery(best_plan))
    assert len(result.plans) == 1 and "rerouted" in [each.kind for each in result.happenings]
    assert result.busy_s["a", "c"] > 0 and result.laps[-1].seconds < 2 * result.laps[0].seconds


def test_the_loss_of_a_relay_stops_the_ring_until_another_way_is_found() -> None:
    problem = three_devices()
    slow = tuple(
        replace(link, latency_s=0.1) if {link.source, link.target} == {"a", "b"} else link for link in problem.links
    )
    problem = replace(problem, links=slow)
    assert ("a", "c") in [leg.resource for leg in decode_legs(problem, AB.stages)]
    result = simulate(problem, AB, Load(new_tokens=200), [Event(0.5, "leave", "c")], Recovery(best_plan))
    assert result.failed is None and result.num_tokens == 200 and "c" not in result.plans[-1].devices


def test_the_trace_holds_every_step() -> None:
    result = simulate(three_devices(), AB, Load(new_tokens=10), [Event(0.01, "slow", "b", factor=2)])
    events = result.to_trace()["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert len(slices) == 10 * 4 and all(event["dur"] >= 0 for event in slices)
    assert any(event["ph"] == "i" and event["name"] == "slow b 2x" for event in events)
    names = [event["args"]["name"] for event in events if event["ph"] == "M"]
    assert "a to b (predicted)" in names


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("t=5 slow pixel 3x", Event(5, "slow", "pixel", factor=3)),
        (" t = 0.5s  slow a>b 2.5x ", Event(0.5, "slow", "a", "b", 2.5)),
        ("t=12 leave laptop", Event(12, "leave", "laptop")),
        ("t=20 join laptop", Event(20, "join", "laptop")),
    ],
)
def test_events_as_people_write_them(text: str, event: Event) -> None:
    assert parse_event(text) == event
    assert parse_event(f"t={event.at_s} {event}") == event


@pytest.mark.parametrize("text", ["slow pixel", "t=x slow pixel 3x", "t=1.1.1 leave a", "t=5 slow pixel", "t=5 eat a"])
def test_events_that_cannot_be_read(text: str) -> None:
    with pytest.raises(BadConfiguration, match="event"):
        parse_event(text)


def test_events_of_a_file_and_of_unknown_devices() -> None:
    assert read_events(["t=1 leave b", {"at_s": 2, "kind": "join", "device": "b"}])[1] == Event(2, "join", "b")
    with pytest.raises(BadConfiguration, match="did you mean 'factor'"):
        read_events({"events": [{"at_s": 2, "kind": "slow", "device": "b", "facto": 2}]})
    with pytest.raises(BadConfiguration, match="no device is called 'bb'; did you mean 'b'"):
        simulate(three_devices(), AB, Load(), [Event(1, "leave", "bb")])
    with pytest.raises(BadConfiguration, match="there is no link from a to a"):
        simulate(three_devices(), AB, Load(), [Event(1, "slow", "a", "a", 2)])


@pytest.mark.parametrize("wrong", [{"in_flight": 0}, {"new_tokens": 0}, {"jitter": -1}, {"new_tokens": 10**7}])
def test_refuses_impossible_loads(wrong: dict[str, int]) -> None:
    with pytest.raises(BadConfiguration):
        Load(**wrong)  # type: ignore[arg-type]
