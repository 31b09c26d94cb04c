"""A link is kept full, and hardly anything waits on it, whatever its rate and length."""

from __future__ import annotations

import heapq
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardnet.tunnel.pacing import LEAST_BYTES, QUEUE_S, Pacing

CHUNK_BYTES = 2**14


class Link:
    """Simulated: carries chunks one by one at a rate, and answers questions when it comes to them, after a delay."""

    def __init__(self, bytes_per_s: float, there_and_back_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.there_and_back_s = there_and_back_s
        self.now_s = 0.0
        self.free_at_s = 0.0
        self.carried_bytes = 0
        self.pacing = Pacing(0.0)
        self.waits_s: list[float] = []
        self._answers: list[tuple[float, int]] = []
        self._numbers = count()

    def run(self, seconds: float) -> None:
        """Send as much as may be, for so long."""
        until_s = self.now_s + seconds
        self._send()
        while self._answers and self._answers[0][0] <= until_s:
            self.now_s, _ = heapq.heappop(self._answers)
            self.pacing.answered(self.now_s)
            self._send()
        self.now_s = until_s

    def _send(self) -> None:
        while not self.pacing.is_full:
            self.waits_s.append(max(0.0, self.free_at_s - self.now_s))
            self.free_at_s = max(self.free_at_s, self.now_s) + CHUNK_BYTES / self.bytes_per_s
            self.carried_bytes += CHUNK_BYTES
            self.pacing.sent(CHUNK_BYTES)
            self._ask_if_due()
        self._ask_if_due()

    def _ask_if_due(self) -> None:
        if self.pacing.is_question_due:
            self.pacing.asked(self.now_s)
            answered_s = max(self.free_at_s, self.now_s) + self.there_and_back_s
            heapq.heappush(self._answers, (answered_s, next(self._numbers)))


@pytest.mark.parametrize("bytes_per_s", [1e5, 1e6, 1e7, 1e8])
@pytest.mark.parametrize("there_and_back_s", [0.0003, 0.005, 0.05, 0.2])
def test_a_link_is_kept_full_and_little_waits_on_it(bytes_per_s: float, there_and_back_s: float) -> None:
    link = Link(bytes_per_s, there_and_back_s)
    link.run(6.0)
    begun_bytes, link.waits_s = link.carried_bytes, []
    link.run(3.0)
    assert link.carried_bytes - begun_bytes > 0.95 * 3.0 * bytes_per_s
    longest_s = max(0.3 * there_and_back_s + 1.5 * QUEUE_S, LEAST_BYTES / bytes_per_s) + CHUNK_BYTES / bytes_per_s
    assert max(link.waits_s) <= longest_s


def test_it_follows_a_link_that_becomes_slower_or_longer() -> None:
    link = Link(2e7, 0.004)
    link.run(5.0)
    link.bytes_per_s = 2e6
    link.run(2.0)
    link.waits_s = []
    link.run(1.0)
    assert max(link.waits_s) < 0.05
    link.bytes_per_s, link.there_and_back_s = 2e7, 0.06
    link.run(30.0)
    begun_bytes = link.carried_bytes
    link.run(10.0)
    assert link.carried_bytes - begun_bytes > 0.9 * 10.0 * 2e7


def test_others_that_send_all_the_time_do_not_hold_bulk_up() -> None:
    """Every ten seconds it is seen how long the way is, for which little of bulk is sent: that must have an end."""
    pacing = Pacing(0.0)
    windows = []
    for step in range(4000):
        now_s = step * 0.005
        pacing.sent(80_000)
        pacing.asked(now_s)
        pacing.answered(now_s + 0.004)
        windows.append(pacing.window_bytes)
    assert sum(window < 80_000 for window in windows[1000:]) < 300


@given(st.lists(st.one_of(st.just("answer"), st.integers(1, 200_000)), max_size=100))
def test_it_is_never_full_without_a_question_that_is_under_way(acts: list[str | int]) -> None:
    pacing = Pacing(0.0)
    questions = 0
    for number, act in enumerate(acts):
        if act == "answer":
            if questions:
                questions -= 1
                pacing.answered(number * 0.7)
        else:
            assert isinstance(act, int)
            pacing.sent(act)
        if pacing.is_question_due:
            pacing.asked(number * 0.7)
            questions += 1
        assert questions or not pacing.is_full
    while questions:
        questions -= 1
        pacing.answered(100.0)
    assert not pacing.is_full or pacing.is_question_due
