"""Devices keep each other's units ready: after a loss nothing is loaded. Over a whole ring in this process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from in_process_ring import PROMPT, RingInProcess, alone, answer, blueprint_of, loaded, rings_of
from processes import wait_until

from shardnet.cluster import standby
from shardnet.cluster.model import Model
from shardnet.cluster.next_ring import missing_of
from shardnet.cluster.remote_stage import RemoteStage
from shardnet.cluster.standby import Standby
from shardnet.device import orphans
from shardnet.device.stage_host import StageHost
from shardnet.errors import ClusterError, DoesNotFit, KVMemorySpent
from shardnet.plan import Plan, StagePlan, stages_from_counts, stages_of_owners

NUM_TOKENS = 24


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[int]:
    return alone(tiny, [PROMPT], NUM_TOKENS)[0]


@pytest.fixture(autouse=True)
def quick(quick_watch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "QUIET_S", 0.05)


def standby_of(model: Model) -> Standby:
    standby = rings_of(model).standby
    assert standby is not None
    return standby


def are_ready(model: Model, num_stages: int) -> None:
    """Wait until so many stages are kept ready, and loaded."""
    wait_until(lambda: sum(event.event == "standby" for event in model.events) >= num_stages)
    assert len(standby_of(model).ready) == num_stages


def hosts_of(ring: RingInProcess, name: str) -> set[StageHost]:
    return set(ring.workers[name]._stages.hosts())


@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_what_is_lost_was_loaded_before(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        are_ready(model, 3)
        before = {name: hosts_of(ring, name) for name in ring.names if name != lost}
        monkeypatch.setattr(StageHost, "load", partial(pytest.fail, "something is loaded after the loss"))
        monkeypatch.setattr(standby, "QUIET_S", 60.0)
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        ring.network.kill(lost)
        "".join(stream)
        assert stream.result.token_ids == expected
        assert lost not in model.plan.devices
        assert all(hosts_of(ring, name) <= before[name] for name in before)


@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_what_is_kept_hot_has_the_conversations_too(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    with loaded(tiny, [2, 2, 2], standby="hot") as (ring, model):
        for one in ring.names:
            for other in ring.names:
                ring.network.delay(one, other, 0.003)
        are_ready(model, 3)
        monkeypatch.setattr(standby, "QUIET_S", 60.0)
        [ready] = [each for each in standby_of(model).ready if model.plan.device_of(each.first_unit) == lost]
        [host] = [each for each in hosts_of(ring, ready.device) if each.key[1] == 0 and has_units(each, ready)]
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        for _ in range(8):
            next(stream)
        wait_until(lambda: any(standing.length > 8 for standing in host.standings().result()))
        ring.network.kill(lost)
        "".join(stream)
        assert stream.result.token_ids == expected


def num_sessions(ring: RingInProcess, name: str) -> int:
    """Open on a device."""
    stages = [host.stage for host in hosts_of(ring, name)]
    return sum(stage.usage()[0] for stage in stages if stage is not None)


def has_units(host: StageHost, stage: StagePlan) -> bool:
    shard = host._running().shard
    return (shard.first_unit, shard.last_unit) == (stage.first_unit, stage.last_unit)


def test_after_a_loss_what_would_be_needed_next_is_loaded(tiny: Path, expected: list[int]) -> None:
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        are_ready(model, 3)
        ring.network.kill("b")
        assert answer(model, PROMPT, NUM_TOKENS) == expected
        wait_until(lambda: sum(event.event == "standby" for event in model.events) > 3)
        wait_until(lambda: {stage.device for stage in standby_of(model).ready} == {"a", "c"})
        ring.network.kill("c")
        assert answer(model, PROMPT, NUM_TOKENS) == expected
        assert model.plan.devices == ("a",)


def test_a_loss_while_it_is_loaded_waits_for_no_other_load(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load = Event()
    load_shard = StageHost._load_shard

    def late(host: StageHost) -> Any:
        may_load.wait(10)
        return load_shard(host)

    with loaded(tiny, [2, 2, 2]) as (ring, model):
        monkeypatch.setattr(StageHost, "_load_shard", late)
        wait_until(lambda: len(standby_of(model).ready) == 1)
        [stage] = standby_of(model).ready
        monkeypatch.setattr(standby, "QUIET_S", 60.0)
        lost = next(name for name in "abc" if name != stage.device and model.plan.device_of(stage.first_unit) == name)
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        num_before = len(hosts_of(ring, stage.device))
        ring.network.kill(lost)
        wait_until(lambda: ("lost", lost) in [(event.event, event.device) for event in model.events])
        may_load.set()
        "".join(stream)
        assert stream.result.token_ids == expected
        assert len(hosts_of(ring, stage.device)) <= num_before, "the two may be one by now"


def test_who_keeps_it_ready_may_be_lost(tiny: Path, expected: list[int]) -> None:
    with loaded(tiny, [2, 2, 2, 0]) as (ring, model):
        are_ready(model, 3)
        for lost in dict.fromkeys(stage.device for stage in standby_of(model).ready):
            if len(ring.network.members()) > 2:
                ring.network.kill(lost)
                assert answer(model, PROMPT, NUM_TOKENS) == expected
                assert lost not in {stage.device for stage in standby_of(model).ready}


def test_a_conversation_gets_the_memory_that_was_given_to_it(tiny: Path, expected: list[int]) -> None:
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        are_ready(model, 3)
        budget = ring.workers["a"].premises.memory.budget
        for each in (budget, *budget._parts.values()):
            each.limit_bytes = budget.reserved_bytes + 1000
        assert answer(model, PROMPT, NUM_TOKENS) == expected
        assert standby_of(model).ready == []
        wait_until(lambda: ring.num_stages() == 3 and num_sessions(ring, "a") == 0)  # they let go of memory
        budget.limit_bytes = budget.reserved_bytes
        with pytest.raises(KVMemorySpent):
            answer(model, PROMPT, NUM_TOKENS)


def test_nothing_is_kept_ready_where_no_memory_is_left_or_nobody_wants_it(tiny: Path) -> None:
    with loaded(tiny, [3, 3], standby="cold") as (_, model), pytest.raises(AssertionError):
        wait_until(lambda: bool(standby_of(model).ready), timeout_s=0.5)
    with loaded(tiny, [3, 3]) as (_, model):
        blueprint = blueprint_of(model)
        tight = tuple(replace(device, memory_bytes=2**19) for device in blueprint.devices)
        small = replace(blueprint, devices=tight)
        assert all(num_bytes < 2**18 for num_bytes in small.spare_bytes(model.plan).values())


def test_all_is_unloaded_with_the_model(tiny: Path) -> None:
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        are_ready(model, 3)
        assert ring.num_stages() == 6
        model.close()
        wait_until(lambda: ring.num_stages() == 0)


def test_a_stage_is_ready_for_one_ring_only(tiny: Path) -> None:
    with loaded(tiny, [2, 2, 2]) as (_, model):
        are_ready(model, 3)
        ready = standby_of(model)
        stage = ready.ready[0]
        assert isinstance(stage, StagePlan)
        taken = ready.take(stage)
        assert taken is not None
        assert ready.take(stage) is None
        taken.let_go()


@pytest.mark.parametrize("kept", ["warm", "hot"])
def test_of_what_is_ready_a_part_may_move(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    """Then nothing is loaded, as where all of it is taken over."""
    with loaded(tiny, [2, 2, 2], standby=kept) as (ring, model):
        are_ready(model, 3)
        monkeypatch.setattr(standby, "QUIET_S", 60.0)
        owners = list(model.plan.devices)
        ready = next(
            each
            for each in standby_of(model).ready
            if abs(owners.index(each.device) - owners.index(model.plan.device_of(each.first_unit))) == 1
        )
        before = hosts_of(ring, ready.device)
        monkeypatch.setattr(StageHost, "load", partial(pytest.fail, "something is loaded for the move"))
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        comes_before = owners.index(model.plan.device_of(ready.first_unit)) < owners.index(ready.device)
        moved = ready.last_unit if comes_before else ready.first_unit
        devices = [ready.device if unit == moved else model.plan.device_of(unit) for unit in range(6)]
        plan = Plan(stages_of_owners(devices))
        assert rings_of(model).go_over(lambda *_: plan)
        assert hosts_of(ring, ready.device) <= before
        assert ready not in standby_of(model).ready
        "".join(stream)
        assert stream.result.token_ids == expected


def test_what_is_loaded_for_a_move_is_not_dropped_by_who_thinks_over_what_is_to_be_ready(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, the move came to nothing, and was tried again after 15 s."""
    with loaded(tiny, [2, 2, 2]) as (_, model):
        are_ready(model, 3)
        rings, ready = rings_of(model), standby_of(model)
        plan = Plan(stages_from_counts(["a", "b", "c"], [1, 3, 2]))
        stages = missing_of(rings.all[-1].members, plan)
        present = rings._present()
        ready.load(present, stages)
        ready._present = present
        ready._get_ready(present)
        assert all(ready.is_ready(stage) for stage in stages)
        ready.prepare(present)  # as when another device joins
        wait_until(lambda: ready._present is None)
        assert all(ready.is_ready(stage) for stage in stages)
        rings.renew()
        wait_until(lambda: len(ready.ready) == 3 and not any(ready.is_ready(stage) for stage in stages))
        assert answer(model, PROMPT, NUM_TOKENS) == expected


def test_what_is_loaded_for_a_move_and_kept_ready_at_the_same_moment_is_opened_once(tiny: Path) -> None:
    """Once, the later one took the place of the earlier, and the move came to nothing, with an error."""
    with loaded(tiny, [2, 2, 2], standby="cold") as (ring, model), ThreadPoolExecutor(4) as threads:
        rings, ready = rings_of(model), standby_of(model)
        stages = missing_of(rings.all[-1].members, Plan(stages_from_counts(["a", "b", "c"], [1, 3, 2])))
        ring.network.scatter(0.1, 0)
        for loads in [threads.submit(ready.load, rings._present(), stages) for _ in range(4)]:
            loads.result(30)
        ring.network.restore()
        assert ready.ready == list(stages)
        assert ring.num_stages() == 4


@pytest.mark.parametrize("kept", ["cold", "none"])
def test_what_is_loaded_for_a_move_that_comes_to_nothing_does_not_stay(tiny: Path, kept: str) -> None:
    """Once it did, for as long as the model, where nothing is to be kept ready."""
    with loaded(tiny, [2, 2, 2], standby=kept) as (ring, model):
        rings, ready = rings_of(model), standby_of(model)
        plan = Plan(stages_from_counts(["a", "b", "c"], [1, 3, 2]))
        ready.load(rings._present(), missing_of(rings.all[-1].members, plan))
        assert ring.num_stages() == 4
        rings.renew()
        wait_until(lambda: ring.num_stages() == 3)
        assert ready.ready == []


def test_what_is_ready_gives_units_up_once(tiny: Path) -> None:
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        are_ready(model, 3)
        ready = standby_of(model).ready[0]
        taken = standby_of(model).take(ready)
        assert taken is not None
        last = StagePlan(ready.device, ready.last_unit, ready.last_unit)
        taken.keep_only(last)
        assert taken.plan == last and any(has_units(host, last) for host in hosts_of(ring, ready.device))
        with pytest.raises(ClusterError, match="keeps units"):
            taken.keep_only(StagePlan(ready.device, ready.first_unit, ready.first_unit))
        taken.let_go()


def test_what_takes_over_gets_the_memory_of_what_is_kept_ready(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, a conversation ended for it."""
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        are_ready(model, 3)
        monkeypatch.setattr(standby, "QUIET_S", 60.0)
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        keeper = Counter(stage.device for stage in standby_of(model).ready).most_common(1)[0][0]
        lost = next(stage for stage in standby_of(model).ready if stage.device == keeper)
        budget = ring.workers[keeper].premises.memory.budget
        for each in (budget, *budget._parts.values()):
            each.limit_bytes = budget.reserved_bytes + 1000
        ring.network.kill(model.plan.device_of(lost.first_unit))
        "".join(stream)
        assert stream.result.token_ids == expected


def test_what_is_taken_stays_while_the_rest_is_loaded(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, its device ended it in the meantime, as nobody seemed to have a use for it, and the model ended."""
    real, load_shard, may_load = standby.reserves, StageHost._load_shard, Event()
    monkeypatch.setattr(standby, "reserves", lambda *known: [each for each in real(*known) if each.instead_of == "d"])
    monkeypatch.setattr(standby, "overlapping", lambda *_: ())
    monkeypatch.setattr(orphans, "LOOK_EVERY_S", 0.02)
    with loaded(tiny, [2, 2, 1, 1]) as (ring, model):
        are_ready(model, 1)
        [ready] = hosts_of(ring, "c") - {host for host in hosts_of(ring, "c") if host.stop.first_unit == 4}
        [orphan_watch] = [each for each in [ring.workers["c"]._orphans] if each is not None]
        wait_until(lambda: any(last.number is not None for last in orphan_watch._last.values()))
        monkeypatch.setattr(standby, "QUIET_S", 60.0)

        def late(host: StageHost) -> Any:
            may_load.wait(10)
            return load_shard(host)

        monkeypatch.setattr(StageHost, "_load_shard", late)
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        ring.network.kill("b")
        ring.network.kill("d")
        wait_until(lambda: standby_of(model).ready == [])
        looks = Counter[str]()
        look = orphan_watch._look
        monkeypatch.setattr(orphan_watch, "_look", lambda now_s: (look(now_s), looks.update(["c"])))
        wait_until(lambda: looks["c"] > 5)
        may_load.set()
        "".join(stream)
        assert stream.result.token_ids == expected
        assert not ready._is_closed or ready._whole is not None


def test_who_takes_over_gets_the_memory_of_what_is_kept_ready(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, the model ended for what was kept ready for another loss."""
    monkeypatch.setattr(standby, "QUIET_S", 60.0)
    with loaded(tiny, [1, 1, 4], kv_memory_bytes=100_000) as (ring, model):
        keeps_ready_for_b(ring, model, monkeypatch)
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        ring.network.kill("c")
        "".join(stream)
        assert stream.result.token_ids == expected
        assert [stage.device for stage in model.plan.stages] == ["a", "b", "a"]


@pytest.mark.parametrize("owners", ["aacccc", "abaaaa"])
def test_what_moves_gets_the_memory_of_what_is_kept_ready(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch, owners: str
) -> None:
    """Once, nothing moved, and it was tried again later, ever more seldom."""
    monkeypatch.setattr(standby, "QUIET_S", 60.0)
    with loaded(tiny, [1, 1, 4], kv_memory_bytes=100_000) as (ring, model):
        keeps_ready_for_b(ring, model, monkeypatch)
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        ready, present, presents = standby_of(model), rings_of(model)._present(), list[Any]()
        unload = standby._are_unloaded

        def unloaded(stages: Sequence[RemoteStage]) -> bool:
            presents.append(ready._present)
            return unload(stages)

        monkeypatch.setattr(standby, "_are_unloaded", unloaded)
        ready._present, ready._due_s = present, time.monotonic() + 60.0  # as while the others are still loaded
        assert rings_of(model).go_over(lambda *_: Plan(stages_of_owners(owners)))
        assert presents == [None] * (owners == "abaaaa")
        "".join(stream)
        assert stream.result.token_ids == expected
        assert standby_of(model).ready == []


def test_what_made_room_in_vain_is_kept_ready_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "QUIET_S", 60.0)
    with loaded(tiny, [1, 1, 4], kv_memory_bytes=100_000) as (ring, model):
        keeps_ready_for_b(ring, model, monkeypatch)
        before = standby_of(model)._stages.copy()
        monkeypatch.setattr(standby, "QUIET_S", 0.05)
        with pytest.raises(DoesNotFit):
            rings_of(model).go_over(lambda *_: Plan(stages_of_owners("aaaaaa")))
        wait_until(lambda: standby_of(model).stages)
        assert standby_of(model)._stages.keys() == before.keys()
        assert standby_of(model).stages != list(before.values())


def keeps_ready_for_b(ring: RingInProcess, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """`a` has room for its unit and those of `c`, and for no more than that: of that it keeps the unit of `b` ready."""
    rings, blueprint = rings_of(model), blueprint_of(model)
    unit_bytes = [unit.weight_bytes for unit in model.profile.units]
    most_bytes = {"a": sum(unit_bytes) - unit_bytes[1], "b": unit_bytes[1], "c": sum(unit_bytes[2:])}
    devices = [replace(each, memory_bytes=most_bytes[each.name] + 110_000) for each in blueprint.devices]
    for device in devices:
        ring.workers[device.name].premises.memory._most_bytes = device.memory_bytes
    rings.blueprint = replace(blueprint, devices=tuple(devices))
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    standby_of(model).prepare(rings._present())
    are_ready(model, 1)
    monkeypatch.setattr(standby, "QUIET_S", 60.0)
    assert standby_of(model).ready == [StagePlan("a", 1, 1)]


def test_what_is_given_up_as_it_is_opened_is_not_kept(tiny: Path, expected: list[int]) -> None:
    """Once it was, and its device ended it: the next loss ended the model."""
    gone: list[bool] = []
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        ring.network.at("open_stage", 0, lambda: gone.append(standby_of(model).give_up()))
        wait_until(lambda: gone == [False])
        wait_until(lambda: ring.num_stages() == 3)
        assert standby_of(model).ready == []
        for lost in "bc":
            ring.network.kill(lost)
            assert answer(model, PROMPT, NUM_TOKENS) == expected
