"""When a device lets go of stages that their coordinator has no use for, or that waits for another coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from shardnet.device import orphans
from shardnet.device.orphans import HeldFor, LastWord, OrphanWatch, Question, is_of_no_use
from shardnet.errors import CallTimeout, ClusterError, DeviceLost, Evicted
from shardnet.transport import InProcessNetwork
from shardnet.transport.in_process.device import InProcessTransport
from shardnet.transport.messages import RingId

RING = RingId(b"epoch", 1)


def answered(outcome: Any) -> Future[Any]:
    answer: Future[Any] = Future()
    answer.set_exception(outcome) if isinstance(outcome, Exception) else answer.set_result(outcome)
    return answer


@pytest.mark.parametrize(
    ("outcome", "after_s", "keep_s", "number", "expected"),
    [
        (True, 100, 0, 7, False),
        (False, 0, 0, 7, True),
        (DeviceLost("", ""), 0, 0, 7, True),
        (CallTimeout("", ""), 100, 0, 7, False),
        (ClusterError("exposes nothing called 'holds'"), 100, 0, 7, False),
        # It has said that it has a use for them, and now it says that it has none.
        (False, 0, 60, 7, True),
        # Another one, that does not know them yet, or nobody.
        (False, 59, 60, 8, False),
        (False, 60, 60, 8, True),
        (False, 59, 60, None, False),
        (DeviceLost("", ""), 59, 60, 7, False),
        (DeviceLost("", ""), 60, 60, 7, True),
        (Evicted(""), 0, 60, 7, True),
    ],
)
def test_what_an_answer_means(outcome: Any, after_s: float, keep_s: float, number: int | None, expected: bool) -> None:
    question = Question(number, answered(outcome))
    assert is_of_no_use(question, LastWord(1000.0, 7), 1000.0 + after_s, keep_s) is expected


def test_who_has_said_nothing_yet_may_be_another_one() -> None:
    question = Question(None, answered(False))
    assert not is_of_no_use(question, LastWord(0.0, None), 59.0, 60.0)


class Device:
    """A watch that looks when it is told to, and what it has dropped."""

    def __init__(self, network: InProcessNetwork, keep_s: float) -> None:
        self.dropped: list[RingId] = []
        self.transport = network.join("device")
        self.held = HeldFor("coordinator", RING, keep_s)
        self.watch = OrphanWatch(self.transport, lambda: [] if self.dropped else [self.held], self.dropped.append)

    def look(self, *times_s: float) -> None:
        for now_s in times_s:
            self.watch._look(now_s)
            question = self.watch._asked.get(self.held)
            if question is not None:
                question.answer.exception(10)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessNetwork]:
    monkeypatch.setattr(orphans, "LOOK_EVERY_S", 3600.0)
    with InProcessNetwork() as network:
        yield network


def coordinator(network: InProcessNetwork, *, knows: bool) -> InProcessTransport:
    transport = network.join("coordinator")
    transport.expose("holds", lambda ring_id: knows and ring_id == RING)
    return transport


def test_a_stage_waits_for_another_coordinator_until_its_time_is_over(network: InProcessNetwork) -> None:
    device = Device(network, keep_s=60.0)
    coordinator(network, knows=True)
    device.look(0, 10, 20)
    network.kill("coordinator")
    device.look(21, 30, 79)
    assert device.dropped == []
    device.look(81)
    assert device.dropped == [RING]
    device.watch.close()


def test_another_coordinator_may_take_the_stage_over(network: InProcessNetwork) -> None:
    """At first it does not know it; when it has known it, it may let it go."""
    device = Device(network, keep_s=60.0)
    first = coordinator(network, knows=True)
    device.look(0, 10)
    first.close()
    device.look(11, 12)
    second = coordinator(network, knows=False)
    device.look(13, 14, 50)
    second.expose("holds", lambda ring_id: True)
    device.look(51, 52, 111, 500)
    assert device.dropped == []
    second.expose("holds", lambda ring_id: False)
    device.look(501, 502)
    assert device.dropped == [RING]
    device.watch.close()


def test_without_a_time_a_stage_goes_at_once(network: InProcessNetwork) -> None:
    device = Device(network, keep_s=0.0)
    coordinator(network, knows=True)
    device.look(0, 10)
    assert device.dropped == []
    network.kill("coordinator")
    device.look(11, 12)
    assert device.dropped == [RING]
    device.watch.close()
