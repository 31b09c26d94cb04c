"""Random schedules of losses over a whole ring in one process: devices die, freeze and thaw at any message, in prompts,
in decoding, while another ring takes over and in the midst of a recovery, on a network that loses, doubles and delays.
Prompts are cut anywhere.

Every conversation ends with its own text. A schedule follows from its number: `schedule_of(17)` says what happens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from fault_schedules import PROMPTS, Fault, FaultSchedule, cut_anywhere, put_into_force
from in_process_ring import RingInProcess, alone, answer, ring_in_process

from shardnet.cluster import remote_stage, tidying, watch
from shardnet.cluster.cluster import COORDINATOR
from shardnet.cluster.model import Model
from shardnet.policy.membership import Limits
from shardnet.session import route, sessions

NUM_SCHEDULES, NUM_LONG = 60, 1000
AT_ONCE = 2
SPEED = 50.0
NUM_TOKENS = 10
LONGEST_S = 60.0
SPLIT = [1, 2, 2, 1]
NAMES = ("a", "b", "c", "d")
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.2, "seed": 3}
IN_PROMPT = ("open_session", "bulk_hop")
IN_DECODING = ("hop", "tokens")
IN_SWITCH = ("adopt", "switch", "retire", "shape", "standings")
IN_RECOVERY = ("open_stage", "load", "resend", "standings", "adopt", "shape")
LEAST_OF_EACH = 100
"""So many of `NUM_LONG` schedules strike in a prompt, in decoding, in a switch and in a recovery each."""


class Strike(NamedTuple):
    """What happens to a device, at the message to an endpoint that comes after `skip` others."""

    kind: str
    device: str
    endpoint: str
    skip: int


class Schedule(NamedTuple):
    """What happens while some conversations go on."""

    faults: FaultSchedule
    where: str
    strikes: tuple[Strike, ...]


def schedule_of(seed: int) -> Schedule:
    random = Random(seed)
    where = random.choice(("prompt", "decoding", "switch", "recovery", "recovery"))
    first, second, third = random.sample(NAMES, 3)
    at = {"prompt": IN_PROMPT, "decoding": IN_DECODING, "switch": IN_SWITCH, "recovery": IN_DECODING}[where]
    most = {"prompt": 8, "decoding": 80, "switch": 8, "recovery": 60}[where]
    strikes = [Strike(random.choice(("kill", "kill", "freeze")), first, random.choice(at), random.randint(0, most))]
    if where == "recovery":
        strikes.append(
            Strike(random.choice(("kill", "freeze")), second, random.choice(IN_RECOVERY), random.randint(0, 5))
        )
    elif random.random() < 0.4:
        strikes.append(Strike("kill", second, random.choice(IN_DECODING), random.randint(0, 100)))
    if random.random() < 0.2:
        strikes.append(Strike("freeze", third, random.choice(IN_DECODING), random.randint(0, 100)))
    faults = tuple(
        Fault(
            random.choice(("drop", "drop answers", "duplicate")),
            random.choice((*NAMES, COORDINATOR, "*")),
            random.choice((*NAMES, COORDINATOR, "*")),
            random.choice(("hop", "bulk_hop", "tokens", "open_session", "close_sessions", "resend", "standings")),
            random.randint(1, 2),
            random.randint(0, 20),
        )
        for _ in range(random.choice((0, 0, 3)))
    )
    num_renewed = 2 if where == "switch" else random.choice((0, 0, 1))
    return Schedule(FaultSchedule(seed, faults, random.choice((0.0, 0.1, 0.5)), num_renewed), where, tuple(strikes))


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[list[int]]:
    with ring_in_process(1) as ring, ring.connect() as cluster, cluster.load(tiny, dtype="float32") as model:
        sampled = model.generate([PROMPTS[0]], max_new_tokens=NUM_TOKENS, **SAMPLED)
    return [*alone(tiny, PROMPTS, NUM_TOKENS), sampled[0].token_ids]


@pytest.fixture(autouse=True)
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The watch's time is no faster than ours: it notices here soon what a real connection shows at once, and before
    anybody gives up a frozen device.
    """
    monkeypatch.setattr(remote_stage, "REWIRE_TRIES", 8)
    monkeypatch.setattr(route, "OPEN_SESSION_TRIES", 8)
    monkeypatch.setattr(watch, "LIMITS", Limits(ask_every_s=0.05, suspect_after_s=0.4, lost_after_s=60.0, grace_s=0.05))
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(tidying, "FIRST_S", 0.002)
    monkeypatch.setattr(sessions, "parts_of", cut_anywhere)
    yield


def test_every_text_is_right_whoever_is_lost(tiny: Path, expected: list[list[int]]) -> None:
    go_through_all(tiny, expected, range(NUM_SCHEDULES))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_text_is_right_in_a_thousand_schedules(tiny: Path, expected: list[list[int]]) -> None:
    struck = go_through_all(tiny, expected, range(NUM_SCHEDULES, NUM_SCHEDULES + NUM_LONG))
    assert min(struck[where] for where in ("prompt", "decoding", "switch", "recovery")) >= LEAST_OF_EACH, struck


def go_through_all(tiny: Path, expected: list[list[int]], seeds: range) -> Counter[str]:
    """Returns how many schedules struck where they were meant to."""
    struck: Counter[str] = Counter()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for schedule, num_struck in threads.map(partial(go_through, tiny, expected), seeds):
            struck[schedule.where] += num_struck >= (2 if schedule.where == "recovery" else 1)
    return struck


def go_through(tiny: Path, expected: list[list[int]], seed: int) -> tuple[Schedule, int]:
    """One schedule over a ring of its own; and how many of its strikes came about."""
    schedule = schedule_of(seed)
    came: list[Strike] = []
    with (
        ring_in_process(len(SPLIT), speed=SPEED) as ring,
        ring.connect() as cluster,
        cluster.load(tiny, dtype="float32", split=SPLIT, prefill_chunk_tokens=4) as model,
        ThreadPoolExecutor(len(expected)) as threads,
    ):
        put_into_force(ring.network, schedule.faults)
        for each in schedule.strikes:
            ring.network.at(each.endpoint, each.skip, partial(strike, ring, each, came))
        answers = [threads.submit(answer, model, prompt, NUM_TOKENS) for prompt in PROMPTS]
        answers.append(threads.submit(sampled_answer, model))
        for _ in range(schedule.faults.num_rewired):
            model._deployment.renew()
        _, late = wait(answers, timeout=LONGEST_S)
        assert not late, f"{len(late)} of {len(answers)} answers have not ended: {seed}, {schedule}"
        assert [each.result() for each in answers] == expected, (seed, schedule)
        ring.network.restore()
    return schedule, len(came)


def sampled_answer(model: Model) -> list[int]:
    return model.generate([PROMPTS[0]], max_new_tokens=NUM_TOKENS, **SAMPLED)[0].token_ids


def strike(ring: RingInProcess, what: Strike, came: list[Strike]) -> None:
    came.append(what)
    (ring.network.kill if what.kind == "kill" else ring.network.freeze)(what.device)
