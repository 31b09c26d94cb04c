"""Which hops of a stage are timed, and as what."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
import torch

from shardnet.device import hop_times
from shardnet.device.hop_times import MOST_KEPT, HopTimes
from shardnet.errors import CallTimeout, DeviceLost
from shardnet.transport.messages import Copied, Part

SECOND = 10**9


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hop_times, "clock_ns", clock)
    return clock


def sent(times: HopTimes, num_bytes: int = 100, device: str = "b") -> Future[Any]:
    answer: Future[Any] = Future()
    assert times.hop(device, num_bytes, lambda: answer) is answer
    return answer


def copied(num_tokens: int) -> Copied:
    parts = (Part(1, 0, num_tokens),) if num_tokens else ()
    return Copied((), (), parts, torch.zeros(num_tokens, 4), None)


def test_a_hop_takes_until_it_is_answered(clock: Clock) -> None:
    times = HopTimes()
    answer = sent(times)
    assert times.taken() == (0, ())
    clock.now_ns = SECOND // 2
    answer.set_result(None)
    assert times.taken() == (1, (("b", 0.5, 100),))


def test_with_each_hop_it_is_told_what_was_on_its_way_before_it(clock: Clock) -> None:
    times = HopTimes()
    first, other, second = sent(times, 100), sent(times, 70, "c"), sent(times, 20)
    for answer in (first, second, other):
        answer.set_result(None)
    sent(times, 1).set_result(None)
    assert [(hop.device, hop.num_bytes) for hop in times.taken().last] == [("b", 100), ("b", 120), ("c", 70), ("b", 1)]


@pytest.mark.parametrize("error", [CallTimeout("", "b"), DeviceLost("", "b")])
def test_a_hop_that_fails_tells_nothing(clock: Clock, error: Exception) -> None:
    times = HopTimes()
    sent(times, 100).set_exception(error)
    sent(times, 1).set_result(None)
    assert times.taken() == (1, (("b", 0.0, 1),))


def test_what_waits_behind_a_chunk_of_a_prompt_tells_nothing(clock: Clock) -> None:
    times, taken = HopTimes(), Future[None]()
    times.bulk_hop("b", 100, taken)
    sent(times).set_result(None)
    sent(times, device="c").set_result(None)
    taken.set_exception(DeviceLost("", "b"))
    sent(times, 1).set_result(None)
    assert [(hop.device, hop.num_bytes) for hop in times.taken().last] == [("c", 100), ("b", 1)]


def test_what_waits_behind_a_copy_of_sessions_tells_nothing(clock: Clock) -> None:
    times, copy = HopTimes(), Future[Copied]()
    times.copy(3, copy)
    sent(times, 1).set_result(None)
    copy.set_result(copied(5))
    sent(times, 2).set_result(None)
    again = Future[Copied]()
    times.copy(3, again)
    sent(times, 3).set_result(None)
    again.set_result(copied(0))
    sent(times, 4).set_result(None)
    assert [hop.num_bytes for hop in times.taken().last] == [1, 3, 4]


def test_a_copy_of_which_nothing_is_heard_any_more_has_arrived(clock: Clock) -> None:
    times, copy = HopTimes(), Future[Copied]()
    times.copy(3, copy)
    copy.set_result(copied(5))
    clock.now_ns = 10 * SECOND
    sent(times).set_result(None)
    assert times.taken().num_hops == 1


def test_the_last_few_are_kept(clock: Clock) -> None:
    times = HopTimes()
    for number in range(2 * MOST_KEPT):
        sent(times, number).set_result(None)
    assert times.taken().num_hops == 2 * MOST_KEPT
    assert [hop.num_bytes for hop in times.taken().last] == list(range(MOST_KEPT, 2 * MOST_KEPT))
