"""A fetch takes what is free of a link, and makes next to no queue there."""

from __future__ import annotations

import heapq
import random

import pytest

from shardnet.shipping.window import AGAIN_S, CHUNK_S, FULL, LEAST_BYTES, MOST_BYTES, QUEUE_S, FetchWindow


class Link:
    """Carries one chunk behind the other."""

    def __init__(self, bytes_per_s: float, there_and_back_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.there_and_back_s = there_and_back_s
        self.late_s = 0.0
        """By how much answers are late at the most: whoever gives and takes has other things to do."""
        self.now_s = 100.0
        self.window = FetchWindow()
        self._free_s = 0.0
        self._under_way: list[tuple[float, int, int, float, float]] = []
        self._chance = random.Random(0)

    def run(self, seconds: float, part_bytes: int = 1 << 22) -> tuple[float, float]:
        """(bytes per second, the longest that something else would have waited on the link)."""
        came_bytes, longest_s, began_s, left_bytes = 0, 0.0, self.now_s, part_bytes
        while self.now_s < began_s + seconds:
            while self.window.is_open_for(size := min(self.window.chunk_bytes, left_bytes)):
                left_bytes = left_bytes - size or part_bytes
                self._free_s = max(self._free_s, self.now_s) + size / self.bytes_per_s
                longest_s = max(longest_s, self._free_s - self.now_s - self.there_and_back_s)
                arrives_s = self._free_s + self.there_and_back_s + self.late_s * self._chance.random()
                heapq.heappush(
                    self._under_way,
                    (arrives_s, self._chance.randrange(1 << 60), size, self.window.ask(size), self.now_s),
                )
            arrives_s, _, size, beside, sent_s = heapq.heappop(self._under_way)
            self.now_s = max(self.now_s, arrives_s)
            self.window.came(size, beside, self.now_s - sent_s, self.now_s)
            came_bytes += size
        return came_bytes / seconds, longest_s

    @property
    def most_s(self) -> float:
        """How long something may wait: what is said to be little, and a chunk, which is the smallest on slow links."""
        chunk_s = max(CHUNK_S, LEAST_BYTES / self.bytes_per_s)
        return (FULL - 1) * self.there_and_back_s + FULL * chunk_s + QUEUE_S + chunk_s / 2


@pytest.mark.parametrize("megabytes_per_s", [0.5, 5, 12.5, 125])
@pytest.mark.parametrize("there_and_back_s", [0.0005, 0.003, 0.03])
def test_the_link_is_used_and_hardly_queues(megabytes_per_s: float, there_and_back_s: float) -> None:
    link = Link(megabytes_per_s * 1e6, there_and_back_s)
    link.run(3.0)
    got, longest_s = link.run(5.0)
    assert got > 0.9 * min(link.bytes_per_s, MOST_BYTES / there_and_back_s)
    assert longest_s <= link.most_s


def test_who_answers_late_now_and_then_is_asked_for_as_much() -> None:
    link = Link(12.5e6, 0.003)
    link.late_s = 0.004
    link.run(3.0)
    got, longest_s = link.run(5.0)
    assert got > 0.8 * link.bytes_per_s
    assert longest_s <= link.most_s


def test_it_gives_way_where_a_link_becomes_slower_and_comes_back() -> None:
    link = Link(12.5e6, 0.003)
    for megabytes_per_s in (12.5, 1.0, 12.5):
        link.bytes_per_s = megabytes_per_s * 1e6
        link.run(AGAIN_S + 1.0)
        got, longest_s = link.run(3.0)
        assert got > 0.9 * link.bytes_per_s
        assert longest_s <= link.most_s


def test_a_way_that_became_longer_is_no_queue_for_ever() -> None:
    link = Link(5e6, 0.001)
    link.run(2.0)
    link.there_and_back_s = 0.1
    link.run(2 * AGAIN_S)
    got, _ = link.run(3.0)
    assert got > 0.8 * link.bytes_per_s


def test_small_tensors_are_not_asked_for_one_by_one() -> None:
    link = Link(12.5e6, 0.03)
    link.run(3.0, part_bytes=4000)
    got, _ = link.run(3.0, part_bytes=4000)
    assert got > 0.5 * link.bytes_per_s


def test_one_small_chunk_may_always_be_asked_for() -> None:
    window = FetchWindow()
    assert window.is_open_for(LEAST_BYTES) and window.chunk_bytes == LEAST_BYTES
    window.ask(LEAST_BYTES)
    assert not window.is_open_for(LEAST_BYTES), "how long it takes alone is not known yet"
    window.failed(LEAST_BYTES)
    assert window.is_open_for(LEAST_BYTES)
