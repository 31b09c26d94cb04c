"""A fetch takes what is free of a link, and makes next to no queue there."""

from __future__ import annotations

from collections import deque

import pytest

from shardnet.shipping.window import CHUNKS, LEAST_BYTES, MOST_BYTES, TARGET_S, FetchWindow


class Link:
    """Carries one chunk behind the other."""

    def __init__(self, bytes_per_s: float, there_and_back_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.there_and_back_s = there_and_back_s
        self.now_s = 100.0
        self._free_s = 0.0

    def send(self, num_bytes: int) -> float:
        """When its answer comes."""
        self._free_s = max(self._free_s, self.now_s) + num_bytes / self.bytes_per_s
        return self._free_s + self.there_and_back_s


def fetched(link: Link, seconds: float) -> tuple[float, float]:
    """(bytes per second, the longest queue in seconds in the second half of the time)."""
    window = FetchWindow()
    under_way: deque[tuple[int, int, float, float]] = deque()
    came, longest_s, end_s = 0, 0.0, link.now_s + seconds
    while link.now_s < end_s:
        while window.is_open:
            size = window.chunk_bytes
            under_way.append((size, window.ask(size), link.now_s, link.send(size)))
        size, beside, sent_s, arrives_s = under_way.popleft()
        link.now_s = arrives_s
        window.came(size, beside, arrives_s - sent_s, arrives_s)
        came += size
        if link.now_s > end_s - seconds / 2:
            queue_s = arrives_s - sent_s - link.there_and_back_s - size / link.bytes_per_s
            longest_s = max(longest_s, queue_s)
    return came / seconds, longest_s


@pytest.mark.parametrize("megabytes_per_s", [0.5, 5, 12.5, 125])
@pytest.mark.parametrize("there_and_back_s", [0.0005, 0.003])
def test_the_link_is_used_and_hardly_queues(megabytes_per_s: float, there_and_back_s: float) -> None:
    rate = megabytes_per_s * 1e6
    got, longest_s = fetched(Link(rate, there_and_back_s), 8.0)
    assert got > 0.65 * rate
    assert longest_s <= TARGET_S + 2 * max(CHUNKS[0] / rate, TARGET_S)


def test_it_gives_way_to_others_and_comes_back() -> None:
    window = FetchWindow()
    for turn in range(200):
        window.came(LEAST_BYTES, window.ask(LEAST_BYTES), 0.002, 21.0 + turn / 1000)
    assert window._most_under_way == MOST_BYTES
    for turn in range(200):
        window.came(LEAST_BYTES, window.ask(LEAST_BYTES), 0.002 + 2 * TARGET_S, 22.0 + turn / 1000)
    assert window._most_under_way == LEAST_BYTES
    assert window.is_open, "one small chunk is always under way"
    for turn in range(200):
        window.came(LEAST_BYTES, window.ask(LEAST_BYTES), 0.002, 23.0 + turn / 1000)
    assert window._most_under_way == MOST_BYTES


def test_a_way_that_became_longer_is_no_queue_for_ever() -> None:
    window = FetchWindow()
    window.came(LEAST_BYTES, window.ask(LEAST_BYTES), 0.001, 11.0)
    for second in range(40):
        window.came(LEAST_BYTES, window.ask(LEAST_BYTES), 0.1, 12.0 + second)
    assert window._most_under_way > LEAST_BYTES
