"""Random schedules of faults over a whole ring in one process: messages are lost, doubled, late and in any order, and
the ring is exchanged in the middle of it. Prompts are cut anywhere. Each conversation ends with the text that it has
alone.

A schedule follows from its number: `schedule_of(17)` says what the network does.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from fault_schedules import PROMPTS, Fault, FaultSchedule, cut_anywhere, put_into_force
from in_process_ring import alone, answer, load, ring_in_process

from shardnet.cluster.cluster import COORDINATOR
from shardnet.cluster.model import Model
from shardnet.session import sessions

NUM_SCHEDULES = 200
NUM_GROUPS = 8
"""The schedules of a group go over one loaded model, one after the other."""
AT_ONCE = 2
"""Groups side by side: half of the time, one waits for messages that are late."""
SPEED = 50.0
"""Much more, and a machine that is busy for half a second is one on which a stage gave no answer in a minute."""
NUM_TOKENS = 8
ENDPOINTS = ("hop", "bulk_hop", "tokens", "open_session", "close_sessions", "*")
NAMES = ("a", "b", "c", COORDINATOR, "*")


def schedule_of(seed: int) -> FaultSchedule:
    random = Random(seed)
    faults = [
        Fault(
            random.choice(("drop", "drop", "drop answers", "duplicate")),
            random.choice(NAMES),
            random.choice(NAMES),
            random.choice(ENDPOINTS),
            random.randint(1, 3),
            random.choice((0, 0, random.randint(1, 25))),
        )
        for _ in range(random.randint(0, 8))
    ]
    return FaultSchedule(seed, tuple(faults), random.choice((0.0, 0.2, 1.0)), random.choice((0, 0, 1, 3)))


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[list[int]]:
    return alone(tiny, PROMPTS, NUM_TOKENS)


@pytest.mark.parametrize("first", range(0, NUM_GROUPS, AT_ONCE))
def test_every_conversation_ends_with_its_own_text(
    tiny: Path, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    monkeypatch.setattr(sessions, "parts_of", cut_anywhere)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for done in [threads.submit(go_through, tiny, expected, first + index) for index in range(AT_ONCE)]:
            done.result()


def go_through(tiny: Path, expected: list[list[int]], group: int) -> None:
    """One schedule after the other, over a ring of its own."""
    with (
        ring_in_process(speed=SPEED) as ring,
        ring.connect() as cluster,
        load(cluster, tiny) as model,
        ThreadPoolExecutor(len(PROMPTS)) as threads,
    ):
        for seed in range(group, NUM_SCHEDULES, NUM_GROUPS):
            schedule = schedule_of(seed)
            put_into_force(ring.network, schedule)
            answers = [threads.submit(answer, model, prompt, NUM_TOKENS) for prompt in PROMPTS]
            rewire(model, schedule.num_rewired)
            texts = [each.result(timeout=30) for each in answers]
            ring.network.restore()
            assert texts == expected, schedule
            model._deployment.sessions.settle()
            assert {report.kv_reserved_bytes for report in model.report()} == {0}, schedule


def rewire(model: Model, times: int) -> None:
    for _ in range(times):
        model._deployment.renew()
