"""Stages give units up and become one in the midst of conversations, over a whole ring in this process: whatever plan
comes next, and whoever is lost meanwhile, no token is lost or changed, and each device has one stage again in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from in_process_ring import PROMPT, RingInProcess, alone, answer, ring_in_process
from processes import wait_until

from shardnet.cluster import remote_stage, tidying, watch
from shardnet.cluster.cluster import COORDINATOR
from shardnet.cluster.model import Model
from shardnet.cluster.rings import Rings
from shardnet.device.worker import Worker
from shardnet.errors import ShardnetError
from shardnet.plan import Plan, StagePlan, stages_from_counts
from shardnet.policy import shape
from shardnet.policy.membership import Limits

NUM_TOKENS = 24
NUM_UNITS = 6
PROMPTS = [PROMPT, [40, 41], [7 + 3 * number for number in range(40)]]
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.2, "seed": 3}
SPEED = 50.0
STRIKES = ("adopt", "switch", "retire", "shape", "standings", "resend", "open_session")


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[list[int]]:
    with ring_in_process(1) as ring, ring.connect() as cluster, cluster.load(tiny, dtype="float32") as model:
        sampled = model.generate([PROMPT], max_new_tokens=NUM_TOKENS, **SAMPLED)
    return [*alone(tiny, PROMPTS, NUM_TOKENS), sampled[0].token_ids]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_stage, "REWIRE_TRIES", 8)
    monkeypatch.setattr(watch, "LIMITS", Limits(ask_every_s=0.05, suspect_after_s=0.5, grace_s=0.05))
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(tidying, "FIRST_S", 0.005)


@pytest.fixture
def ring() -> Iterator[RingInProcess]:
    with ring_in_process(4, speed=SPEED) as ring:
        ring.network.scatter(0.02, 1)
        yield ring


def living(ring: RingInProcess) -> list[str]:
    members = [(name, ring.network.member(name)) for name in ring.names]
    return [name for name, member in members if member is not None and not member.is_dead]


def rings_of(model: Model) -> Rings:
    rings = model._deployment._rings
    assert rings is not None
    return rings


def is_tidy(model: Model) -> bool:
    rings = rings_of(model)
    return not rings.is_changing and not rings.all[-1].divided() and len(rings.all) == 1


def check_memory(ring: RingInProcess, model: Model) -> None:
    """Every device has its stage and no other, and has reserved what the weights of that take, and no more."""
    rings = rings_of(model)
    assert rings.standby is not None
    rings.standby.give_up()
    model._deployment.sessions.settle()
    present = {stage.plan.device: stage.plan.units for stage in rings.all[-1].stages}
    for name in living(ring):
        worker = ring.workers[name]
        wait_until(
            lambda name=name, worker=worker: units_on(worker) == ([present[name]] if name in present else []), 10
        )
        expected = sum(host.stage.shard.weight_bytes for host in worker._stages.hosts() if host.stage is not None)
        wait_until(lambda worker=worker, expected=expected: reserved_bytes(worker) == expected, 10)


def units_on(worker: Worker) -> list[str]:
    shards = [host.stage.shard for host in worker._stages.hosts() if host.stage is not None]
    return [StagePlan("", shard.first_unit, shard.last_unit).units for shard in shards]


def reserved_bytes(worker: Worker) -> int:
    """Without what stays of closed sessions until somebody needs the memory."""
    budget = worker.premises.memory.budget
    return budget.reserved_bytes - budget.spare_bytes


@pytest.mark.parametrize("lost", ["a", "b", "c", "d"])
def test_after_a_loss_each_device_has_one_stage_again(
    ring: RingInProcess, tiny: Path, expected: list[list[int]], lost: str
) -> None:
    split = [1, 2, 2, 1]
    with ring.connect() as cluster, cluster.load(tiny, dtype="float32", split=split, standby="cold") as model:
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        ring.network.kill(lost)
        wait_until(lambda: lost not in model.plan.devices and is_tidy(model), 20)
        assert len(model._deployment.ring.plan) == len(model.plan.devices) == 3
        assert model._deployment.ring.plan == model.plan.stages
        "".join(stream)
        assert stream.result.token_ids == expected[0]
        assert [event.event for event in model.events] == ["lost", "recovered"]
        check_memory(ring, model)


def test_of_a_round_that_is_broken_off_the_next_one_knows_what_stages_have_become(
    tiny: Path, expected: list[list[int]]
) -> None:
    """b has given up unit 2, and has not said so yet, when c is lost, which was to have it."""
    with ring_in_process(4, speed=SPEED) as ring, ring.connect() as cluster:
        ring.network.scatter(0.02, 1)
        model = cluster.load(tiny, dtype="float32", split=[1, 2, 2, 1], standby="cold", rebalance=False)
        with model:
            stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
            next(stream)
            ring.network.drop("b", COORDINATOR, endpoint="shape", count=3, answers=True)
            ring.network.at("shape", 0, lambda: ring.network.kill("c"))
            rings_of(model).go_over(lambda *_: Plan(stages_from_counts(["a", "b", "c", "d"], [1, 1, 3, 1])))
            assert "c" not in model.plan.devices and model.plan.device_of(2) == "b"
            "".join(stream)
            assert stream.result.token_ids == expected[0]
            wait_until(lambda: is_tidy(model), 20)
            check_memory(ring, model)


@pytest.mark.parametrize("counts", [[3, 3], [1, 5], [4, 2], [0, 6], [6, 0]])
def test_what_moves_becomes_part_of_the_stage_beside_it_in_the_same_change(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, expected: list[list[int]], counts: list[int]
) -> None:
    """Where nothing is lost, no second change has to join the two, and nothing is computed anew before."""
    monkeypatch.setattr(tidying, "FIRST_S", 60.0)
    with ring_in_process(2, speed=SPEED) as ring, ring.connect() as cluster:
        ring.network.scatter(0.02, 1)
        model = cluster.load(tiny, dtype="float32", split=[2, 4], standby="cold", rebalance=False)
        with model:
            stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
            next(stream)
            rings = rings_of(model)
            assert rings.go_over(lambda *_: Plan(stages_from_counts(["a", "b"], counts)))
            assert is_tidy(model) and rings.all[-1].plan == model.plan.stages
            "".join(stream)
            assert stream.result.token_ids == expected[0]
            check_memory(ring, model)


def some_plan(random: Random, devices: list[str]) -> Plan:
    chosen = random.sample(devices, random.randint(1, len(devices)))
    borders = sorted(random.sample(range(1, NUM_UNITS), len(chosen) - 1))
    counts = [end - first for first, end in zip([0, *borders], [*borders, NUM_UNITS], strict=True)]
    return Plan(stages_from_counts(chosen, counts))


@pytest.mark.parametrize("seed", range(16))
def test_any_plan_follows_any_other_and_who_is_lost_meanwhile_changes_no_token(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, expected: list[list[int]], seed: int
) -> None:
    random = Random(seed)
    if random.random() < 0.5:  # stages become one where they stand far apart
        monkeypatch.setattr(shape, "MOST_BEHIND", 1000)
    with ring_in_process(4, speed=SPEED) as ring, ring.connect() as cluster:
        ring.network.scatter(random.choice([0.02, 0.2]), seed)
        model = cluster.load(tiny, dtype="float32", split=[1, 2, 2, 1], prefill_chunk_tokens=4, standby="cold")
        with model, ThreadPoolExecutor(4) as threads:
            answers = [threads.submit(answer, model, prompt, NUM_TOKENS) for prompt in PROMPTS]
            answers.append(threads.submit(sampled_answer, model))
            for lost in random.sample(ring.names, random.choice([0, 1, 2])):
                ring.network.at(
                    random.choice(STRIKES), random.randint(5, 60), lambda lost=lost: ring.network.kill(lost)
                )
            rings = rings_of(model)
            while not all(each.done() for each in answers):
                with suppress(ShardnetError):  # a device that is lost loads nothing
                    rings.go_over(lambda *_: some_plan(random, living(ring)))
            assert [each.result(timeout=30) for each in answers] == expected
            wait_until(lambda: is_tidy(model), 20)
            assert model._deployment.ring.plan == model.plan.stages
            check_memory(ring, model)


def sampled_answer(model: Model) -> list[int]:
    return model.generate([PROMPT], max_new_tokens=NUM_TOKENS, **SAMPLED)[0].token_ids
