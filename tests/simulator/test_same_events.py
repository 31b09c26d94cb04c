"""The same schedule of faults on a ring of real stages in one process and on paper: the same events, the same heirs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from in_process_ring import PROMPT, RingInProcess, blueprint_of, loaded, rings_of
from processes import wait_until

from shardnet.cluster import watch
from shardnet.cluster.model import Model
from shardnet.plan import Plan
from shardnet.planner.problem import Problem
from shardnet.policy.membership import Limits
from shardnet.simulator import Event, Load, Recovery, simulate

SPLIT = [1, 2, 2, 1]
NAMES = "abcd"
NUM_TOKENS = 200
LIMITS = Limits(ask_every_s=0.05, suspect_after_s=0.4, lost_after_s=60.0, grace_s=0.05)
COMPARED = ("lost", "suspected", "cut off", "back", "recovered", "drained", "rebalanced")
BETWEEN_S = 10.0
"""On paper, between two steps: long enough for what follows from each."""

UNIT_S = 1e-3
"""On paper, of every device alike: so that an answer takes as long as all that happens."""


class Step(NamedTuple):
    """What happens; the next one does when all is done about it."""

    kind: str
    device: str
    to: str | None = None


class Told(NamedTuple):
    """An event without its reason, which is put into other words on paper."""

    kind: str
    device: str
    follows: str
    """Who takes over what."""


@pytest.fixture(autouse=True)
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LIMITS", LIMITS)
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.02)


def told_of(kind: str, device: str, text: str) -> Told:
    follows = re.search(r"\): (its units? .*)", text) if kind in ("lost", "suspected", "cut off") else None
    return Told(kind, device, follows[1] if follows else "")


def random_schedule(seed: int) -> tuple[Step, ...]:
    """Losses, silences and goodbyes, one after the other; somebody stays."""
    random, there, steps = Random(seed), list(NAMES), []
    while len(there) > 1 and len(steps) < 4:
        device, kind = random.choice(there), random.choice(("kill", "freeze", "leave"))
        steps.append(Step(kind, device))
        if kind == "freeze" and random.random() < 0.7:
            steps.append(Step("thaw", device))
        else:
            there.remove(device)
    return tuple(steps)


SCHEDULES = [
    (Step("kill", "a"),),
    (Step("kill", "b"), Step("kill", "c")),
    (Step("freeze", "c"), Step("thaw", "c"), Step("kill", "d")),
    (Step("freeze", "a"), Step("kill", "b"), Step("thaw", "a"), Step("kill", "c")),
    (Step("cut", "b", "c"), Step("kill", "a")),
    (Step("leave", "d"), Step("freeze", "b")),
    *map(random_schedule, range(6)),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=range(len(SCHEDULES)))
def test_a_schedule_gives_the_same_events_on_devices_and_on_paper(tiny: Path, schedule: tuple[Step, ...]) -> None:
    with loaded(tiny, SPLIT, speed=20.0, standby="cold") as (ring, model):
        problem, start = blueprint_of(model).problem((), len(PROMPT) + NUM_TOKENS), model.plan
        told = played(ring, model, schedule)
        end = model.plan
    on_paper, paper_end = foretold(problem, start, schedule)
    assert told == on_paper
    assert [(stage.device, stage.units) for stage in end.stages] == [
        (stage.device, stage.units) for stage in paper_end.stages
    ]


def played(ring: RingInProcess, model: Model, schedule: tuple[Step, ...]) -> list[Told]:
    for one in ring.names:
        for other in ring.names:
            ring.network.delay(one, other, 0.2)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
    next(stream)
    for step in schedule:
        is_felt = step.device in model.plan.devices or step.kind == "thaw"
        before = len(model.events)
        strike(ring, model, step)
        if is_felt:
            done = {"thaw": "back", "leave": "drained"}.get(step.kind, "recovered")
            wait_until(lambda begin=before, kind=done: kind in [each.event for each in model.events[begin:]])
        if step.kind in ("kill", "leave"):
            rings = rings_of(model)
            wait_until(lambda device=step.device, rings=rings: device in rings.absences.lost and not rings.is_changing)
    stream.close()
    return [told_of(each.event, each.device, each.text) for each in model.events if each.event in COMPARED]


def strike(ring: RingInProcess, model: Model, step: Step) -> None:
    network = ring.network
    if step.kind == "cut":
        assert step.to is not None
        network.drop(step.device, step.to, count=10**6)
    elif step.kind == "leave":
        model._deployment.drain(step.device)
        network.kill(step.device)
    else:
        {"kill": network.kill, "freeze": network.freeze, "thaw": network.restore}[step.kind](step.device)


def foretold(problem: Problem, start: Plan, schedule: tuple[Step, ...]) -> tuple[list[Told], Plan]:
    events = [Event(1.0 + BETWEEN_S * number, step.kind, step.device, step.to) for number, step in enumerate(schedule)]
    slow = [replace(device, unit_seconds=(UNIT_S,) * problem.num_units) for device in problem.devices]
    problem = replace(problem, devices=tuple(slow))
    num_tokens = round((len(schedule) + 1) * BETWEEN_S / (UNIT_S * problem.num_units))
    load = Load(prompt_tokens=len(PROMPT), new_tokens=num_tokens)
    recovery = Recovery(limits=LIMITS, detect_s=0.1, default_load_bytes_per_s=1e9, standby="cold", is_source_apart=True)
    result = simulate(problem, start, load, events, recovery)
    assert result.failed is None
    happened = [told_of(each.kind, each.device, each.what) for each in result.happenings if each.kind in COMPARED]
    return happened, result.plans[-1]
