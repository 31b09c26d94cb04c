"""A device becomes slow while it answers: layers move to others, and no token changes. Over a ring in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from in_process_ring import PROMPT, RingInProcess, alone, blueprint_of, ring_in_process, rings_of
from processes import wait_until
from torch import Tensor

from shardnet.cluster import balancing
from shardnet.cluster.balancing import Situation
from shardnet.cluster.model import Model
from shardnet.cluster.placement import kept_bytes_per_token
from shardnet.cluster.rings import Rings
from shardnet.errors import DoesNotFit
from shardnet.plan import Plan, StagePlan, stages_from_counts
from shardnet.policy.link_pace import LinkPace, _Seen
from shardnet.policy.observing import Pace
from shardnet.policy.rebalance import Decision, Move, Past, Policy, Prospect
from shardnet.policy.succession import Away

NUM_TOKENS = 400
STEP_S = 0.001
HALF_BYTES, KV_BYTES = 730_000, 330_000
"""Enough for three of the six units and a conversation of so many tokens, and too little for more."""


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[int]:
    return alone(tiny, [PROMPT], NUM_TOKENS)[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancing, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(balancing, "POLICY", Policy(hold_s=0.3, cool_down_s=0.5))


class Slowed:
    """How long the steps of each device take: so long for each unit that it has there, times its own factor."""

    def __init__(self, noise: float = 0.0) -> None:
        self.factor = {"a": 1.0, "b": 1.0, "c": 1.0}
        self._random = Random(1)
        self._noise = noise

    def of(self, ring: RingInProcess, name: str) -> Callable[[Callable[[], Tensor]], Tensor]:
        def pace(work: Callable[[], Tensor]) -> Tensor:
            began_s = time.monotonic()
            done = work()
            hosts = ring.workers[name]._stages.hosts()
            units = sum(host.stage.shard.num_units for host in hosts if host.stage is not None)
            noise = 1 + self._random.uniform(-self._noise, self._noise)
            time.sleep(max(STEP_S * units * self.factor[name] * noise - (time.monotonic() - began_s), 0))
            return done

        return pace


@contextmanager
def loaded(tiny: Path, slowed: Slowed, memory_bytes: int | None = None, **options: Any) -> Iterator[Model]:
    with ring_in_process(3, memory_bytes=memory_bytes) as ring:
        for name in ring.names:
            worker = ring.workers[name]
            worker.premises = worker.premises.__class__(**{**vars(worker.premises), "pace": slowed.of(ring, name)})
        with ring.connect() as cluster:
            yield cluster.load(tiny, dtype="float32", prefill_chunk_tokens=4, **options)


def carry_away(ring: RingInProcess, device: str, seconds: float) -> None:
    """From now on what goes to a device and what comes from it takes so long."""
    for other in ring.names:
        if other != device:
            ring.network.delay(device, other, seconds)
            ring.network.delay(other, device, seconds)


def has_looked_at_links(model: Model) -> bool:
    balancing = model._deployment._balancing
    return balancing is not None and len(balancing._link_pace.ways) > 1


def num_units_of(model: Model, device: str) -> int:
    return sum(stage.num_units for stage in model.plan.stages if stage.device == device)


def answer_until(model: Model, expected: list[int], condition: Callable[[], object]) -> None:
    """One answer after the other, each of which must be the expected one, until something holds: how many that takes
    depends on what else this machine does."""

    def answered() -> object:
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        "".join(stream)
        assert stream.result.token_ids == expected
        return condition()

    wait_until(answered)


def is_usable(rings: Rings, device: str) -> bool:
    assert rings.blueprint is not None
    return device in {each.name for each in rings.blueprint.devices} and device not in rings.absences.lost


def test_layers_leave_a_device_that_became_slow(tiny: Path, expected: list[int]) -> None:
    slowed = Slowed()
    with loaded(tiny, slowed) as model:
        num_before = num_units_of(model, "b")
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        time.sleep(1.0)
        slowed.factor["b"] = 5.0
        "".join(stream)
        assert stream.result.token_ids == expected
        answer_until(model, expected, lambda: num_units_of(model, "b") < num_before)
        assert "rebalanced" in [event.event for event in model.events]


def test_what_there_is_no_room_for_at_once_moves_in_steps(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`b` gives a unit to `c` before it has room for one of `a`: all in one change, however long the cool-down is."""
    monkeypatch.setattr(balancing, "POLICY", Policy(hold_s=0.3, cool_down_s=1000.0))
    go_over, calls = Rings.go_over, count(1)

    def full_at_first(rings: Rings, choose: Any) -> bool:
        if next(calls) == 2:
            raise DoesNotFit("what was given away is still there")
        return go_over(rings, choose)

    monkeypatch.setattr(Rings, "go_over", full_at_first)
    slowed = Slowed()
    with loaded(tiny, slowed, memory_bytes=830_000, kv_memory_bytes=460_000) as model:  # three units and what moves
        before = model.plan.stages
        assert [stage.num_units for stage in before] == [2, 2, 2]
        slowed.factor["a"] = 5.0
        wanted = stages_from_counts(["a", "b", "c"], [1, 2, 3])
        answer_until(model, expected, lambda: model.plan.stages == wanted)
        assert not blueprint_of(model).can_change(before, model.plan.stages, NUM_TOKENS)
        assert [event.event for event in model.events] == ["rebalanced"]


def test_what_moved_is_told_unit_by_unit() -> None:
    """Once, two units far from each other were told as all between them."""
    moved = [Move(3, "a", "c"), Move(4, "a", "c"), Move(7, "a", "c"), Move(8, "b", "c")]
    assert balancing._told(moved) == "units 3-4 from a to c; unit 7 from a to c; unit 8 from b to c"


def test_layers_leave_a_device_whose_links_became_slow(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three devices are needed; which of the two is to blame shows when one of them is replaced. All links are
    slower than measured from the beginning, which says nothing."""
    monkeypatch.setattr(Pace, "slowdown", lambda _, devices: dict.fromkeys(devices, 1.0))  # links alone may speak here
    options: dict[str, Any] = {"placement": "auto", "kv_memory_bytes": KV_BYTES, "prefill_chunk_tokens": 4}
    with ring_in_process(3, memory_bytes=HALF_BYTES) as ring, ring.connect() as cluster:
        model = cluster.load(tiny, dtype="float32", **options)
        for name in ring.names:
            carry_away(ring, name, 0.003)
        slowed = model.plan.devices[-1]
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        wait_until(lambda: has_looked_at_links(model))
        carry_away(ring, slowed, 0.05)
        "".join(stream)
        assert stream.result.token_ids == expected
        answer_until(model, expected, lambda: slowed not in model.plan.devices)
        assert "rebalanced" in [event.event for event in model.events]


def test_layers_move_over_no_way_that_is_cut(tiny: Path) -> None:
    """Once, they would have moved back over a link that the ring had just gone round."""
    with loaded(tiny, Slowed()) as model:
        without_b = stages_from_counts(["a", "c"], [3, 3])
        for away, may_be in ((Away(), True), (Away(late=frozenset({("a", "c")})), False)):
            assert Situation(model.plan, blueprint_of(model), away, 16).may_be(without_b) == may_be


def test_noise_moves_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancing, "POLICY", Policy())  # what else runs on this machine is noise, too
    with loaded(tiny, Slowed(noise=0.1)) as model:
        before = model.plan
        list(model.stream(PROMPT, max_new_tokens=300))
        assert model.plan.stages == before.stages
        assert "rebalanced" not in [event.event for event in model.events]


def test_nothing_is_known_of_a_device_that_comes_under_the_name_of_another_one(tiny: Path) -> None:
    """Once, it was taken to be as slow as that one had been, for five minutes of conversations."""
    with loaded(tiny, Slowed()) as model:
        looks, rings = model._deployment._balancing, rings_of(model)
        assert looks is not None
        looks.close()
        looks._num_under_way = lambda: 1
        looks._look()
        names = [device.name for device in blueprint_of(model).devices]
        looks._pace = Pace(*(dict.fromkeys(names, number) for number in (5.0, 1.0)), dict.fromkeys(names, 0))
        ways = {("a", "b"): _Seen(1.0, 100), ("a", "c"): _Seen(1.0, 100), ("b", "a"): _Seen(1.0, 100)}
        looks._link_pace = LinkPace(ways, 0.0)
        looks._look()
        assert looks._pace.ratios.keys() == set(names) and len(looks._link_pace.ways) == 3
        blueprint = blueprint_of(model)
        devices = tuple(replace(each) if each.name == "b" else each for each in blueprint.devices)
        rings.blueprint = replace(blueprint, devices=devices)
        looks._look()
        for known in (looks._pace.ratios, looks._pace.usual, looks._pace.unseen):
            assert set(known) == {"a", "c"}
        assert set(looks._link_pace.ways) == {("a", "c")}


def test_what_was_seen_before_a_pause_moves_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[Past] = []

    def decided(plan: Plan, found: Prospect, now_s: float, past: Past, policy: Policy) -> Decision:
        known.append(past)
        return Decision(None, "", 1.0)

    monkeypatch.setattr(balancing, "decide", decided)
    with loaded(tiny, Slowed()) as model:
        looks = model._deployment._balancing
        assert looks is not None
        looks.close()
        looks._num_under_way = lambda: 1
        for pause_s in (0.0, 0.0, 100.0):
            looks._looked_s -= pause_s
            looks._look()
        assert [past.better_since_s for past in known] == [None, 1.0, None]


def test_a_change_has_to_fit_while_it_lasts(tiny: Path) -> None:
    """Once, a device was given other units than it had, for which it had room, but not for both: a conversation ended
    for that."""
    with loaded(tiny, Slowed(), split=[2, 2, 2]) as model:
        blueprint, plan, tokens = blueprint_of(model), model.plan, 100
        names = list(plan.devices)
        shifted = stages_from_counts([names[1], names[2], names[0]], [2, 2, 2])
        trimmed = stages_from_counts(names, [1, 3, 2])
        units = blueprint.files.profile.units
        most = max(unit.weight_bytes + tokens * unit.kv_bytes_per_token for unit in units)
        kept_bytes = 2 * tokens * kept_bytes_per_token(blueprint.files.profile)

        def can_change(memory_bytes: int, stages: tuple[StagePlan, ...]) -> bool:
            devices = tuple(replace(each, memory_bytes=memory_bytes) for each in blueprint.devices)
            return replace(blueprint, devices=devices).can_change(plan.stages, stages, tokens)

        assert can_change(4 * most + kept_bytes, shifted)
        assert can_change(3 * most + kept_bytes, trimmed)
        assert not can_change(sum(unit.weight_bytes for unit in units) // 2, shifted)
        assert not can_change(most, plan.stages)


def test_others_take_over_from_who_is_about_to_leave_before_it_leaves(tiny: Path, expected: list[int]) -> None:
    with ring_in_process(3) as ring, ring.connect() as cluster:
        for one in ring.names:
            for other in ring.names:
                ring.network.delay(one, other, 0.001)
        model = cluster.load(tiny, dtype="float32", split=[2, 2, 2], prefill_chunk_tokens=4)
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        cluster.drain("b")
        assert "b" not in model.plan.devices
        wait_until(lambda: not ring.workers["b"]._stages.hosts())
        ring.network.kill("b")
        "".join(stream)
        assert stream.result.token_ids == expected
        assert [event.event for event in model.events] == ["drained"]


def test_where_nobody_can_take_over_who_leaves_is_lost_like_any_other(tiny: Path) -> None:
    with ring_in_process(1) as ring, ring.connect() as cluster, cluster.load(tiny, dtype="float32") as model:
        cluster.drain("a")
        assert model.plan.devices == ("a",)
        assert model.events == ()


def test_who_has_just_come_takes_over_from_who_leaves(tiny: Path, expected: list[int]) -> None:
    with ring_in_process(1) as ring, ring.connect() as cluster:
        model = cluster.load(tiny, dtype="float32", prefill_chunk_tokens=4)
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        ring.join("b")
        cluster.take_in("b")
        cluster.drain("a")
        assert model.plan.devices == ("b",)
        "".join(stream)
        assert stream.result.token_ids == expected


def test_who_leaves_waits_for_a_change_that_came_first(tiny: Path) -> None:
    with ring_in_process(3, speed=50.0) as ring, ring.connect() as cluster, ThreadPoolExecutor() as threads:
        model = cluster.load(tiny, dtype="float32", split=[2, 2, 2])
        drained: list[Future[None]] = []
        ring.network.at("switch", 0, lambda: drained.append(threads.submit(cluster.drain, "b")))
        ring.network.scatter(5.0, 1)
        rings_of(model).renew()
        drained[0].result()
        assert "b" not in model.plan.devices


def test_a_newcomer_takes_over(tiny: Path, expected: list[int]) -> None:
    """Also one that comes under the name of a device that was lost."""
    with ring_in_process(2) as ring, ring.connect() as cluster:
        model = cluster.load(tiny, dtype="float32", split=[3, 3], prefill_chunk_tokens=4)
        for newcomer, lost in (("c", "a"), ("a", "b")):
            worker = ring.join(newcomer)
            cluster.take_in(newcomer)
            rings = rings_of(model)
            wait_until(partial(is_usable, rings, newcomer))
            stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
            next(stream)
            cluster.drain(lost)
            ring.network.kill(lost)
            cluster.let_go(lost, "it left")
            "".join(stream)
            assert stream.result.token_ids == expected
            assert worker.premises is not None
        assert "b" not in model.plan.devices
