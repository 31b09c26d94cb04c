"""Streams that send little overtake those that send much, and nobody starves."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shardnet.tunnel.scheduling import Turns

QUANTUM = 1000


def send(turns: Turns, num_bytes: int = QUANTUM) -> int:
    """Whoever is next sends so much, and has more."""
    stream = turns.next()
    assert stream is not None
    turns.charge(stream, num_bytes)
    return stream


def test_bulk_streams_share_evenly() -> None:
    turns = Turns(QUANTUM)
    for stream in (1, 2, 3):
        turns.wake(stream)
    assert Counter(send(turns) for _ in range(300)) == {1: 100, 2: 100, 3: 100}


def test_a_stream_that_sends_little_waits_for_nobody() -> None:
    """It is next each time, though others have been waiting, and however often it comes."""
    turns = Turns(QUANTUM)
    for stream in (1, 2, 3):
        turns.wake(stream)
    for _ in range(10):
        send(turns)
    for _ in range(20):
        turns.wake(9)
        assert send(turns, 100) == 9
        turns.sleep(9)
        for _ in range(4):  # a round of the others
            assert send(turns) != 9


def test_a_message_in_pieces_is_not_split_by_bulk() -> None:
    """Its second piece waited until there was room for bulk again, and behind that."""
    turns = Turns(QUANTUM)
    turns.wake(1)
    for _ in range(3):
        send(turns)
    for _ in range(QUANTUM // 100):
        turns.wake(9)
        assert turns.next(only_new=True) == 9
        turns.charge(9, 100)
        turns.sleep(9)
        assert turns.next(only_new=True) is None
    turns.wake(9)
    assert turns.next(only_new=True) is None, "a quantum until the others had their turn"
    assert {send(turns) for _ in range(3)} == {1, 9}
    turns.sleep(9)
    for _ in range(3):
        assert send(turns) == 1
    turns.wake(9)
    assert turns.next(only_new=True) == 9


def test_one_that_pauses_is_no_favourite_of_bulk_that_does_not() -> None:
    turns = Turns(QUANTUM)
    sent: Counter[int] = Counter()
    for stream in (1, 2):
        turns.wake(stream)
    for _ in range(4000):
        stream = turns.next()
        assert stream is not None
        turns.charge(stream, 100)
        sent[stream] += 100
        if stream == 2:
            turns.sleep(2)
            turns.next(only_new=True)
            turns.wake(2)
    assert sent[2] <= sent[1] + 2 * QUANTUM


def test_one_that_sends_much_is_no_favourite_for_long() -> None:
    turns = Turns(QUANTUM)
    turns.wake(1)
    for _ in range(3):
        send(turns)
    turns.wake(2)
    sent = Counter(send(turns) for _ in range(100))
    assert abs(sent[1] - sent[2]) <= 2


def test_large_pieces_are_charged_in_full() -> None:
    turns = Turns(QUANTUM)
    turns.wake(1)
    turns.wake(2)
    sent: Counter[int] = Counter()
    for _ in range(400):
        stream = turns.next()
        assert stream is not None
        size = 4 * QUANTUM if stream == 1 else QUANTUM
        turns.charge(stream, size)
        sent[stream] += size
    assert abs(sent[1] - sent[2]) <= 4 * QUANTUM


@given(st.lists(st.tuples(st.sampled_from(["wake", "sleep", "forget", "send"]), st.integers(1, 4)), max_size=80))
def test_whoever_is_next_has_something_to_send(acts: list[tuple[str, int]]) -> None:
    turns = Turns(QUANTUM)
    ready: set[int] = set()
    for what, stream in acts:
        if what == "send":
            chosen = turns.next()
            assert chosen in ready if ready else chosen is None
            if chosen is not None:
                turns.charge(chosen, QUANTUM)
            continue
        ready = ready | {stream} if what == "wake" else ready - {stream}
        getattr(turns, what)(stream)
    seen = set()
    for _ in range(12 if ready else 0):
        seen.add(send(turns))
    assert seen == ready
