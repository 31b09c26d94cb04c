"""What one end sends arrives at the other in order, once, wherever connections are cut."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.tunnel import frames
from shardnet.tunnel.frames import BadFrame, FrameReader, Kind
from shardnet.tunnel.sequence import ReceivedFrames, SentFrames


class End:
    """One end of a link session, without streams: what it says, what it heard, and what is on its way from it."""

    def __init__(self) -> None:
        self.sent = SentFrames(most_bytes=10**9)
        self.received = ReceivedFrames()
        self.said: list[bytes] = []
        self.heard: list[bytes] = []
        self.connect(0)

    def connect(self, num_received: int) -> None:
        self.reader = FrameReader()
        self.under_way = b""
        self.sent.resume(num_received)

    def say(self, payload: bytes) -> None:
        self.said.append(payload)
        self.sent.add(frames.pack(Kind.DATA, 1, self.sent.next_number, payload))

    def write(self, num_frames: int) -> None:
        for _ in range(min(num_frames, self.sent.num_waiting)):
            self.under_way += self.sent.take()

    def acknowledge(self) -> None:
        self.under_way += frames.pack(Kind.ACK, number=self.received.num_received)

    def hear(self, data: bytes) -> None:
        self.reader.room()[: len(data)] = data
        for frame in self.reader.filled(len(data)):
            if frame.kind is Kind.ACK:
                self.sent.acknowledge(frame.number)
            elif self.received.is_new(frame.number):
                self.heard.append(frame.payload)


class Act(NamedTuple):
    """What happens next, at the end `end`."""

    what: str
    end: int
    size: int


ACTS = st.builds(
    Act, st.sampled_from(["say", "write", "pass", "acknowledge", "cut", "move"]), st.integers(0, 1), st.integers(1, 90)
)


def perform(ends: tuple[End, End], act: Act) -> None:
    end, other = ends[act.end], ends[1 - act.end]
    if act.what == "say":
        end.say(bytes([len(end.said) % 256]) * act.size)
    elif act.what == "write":
        end.write(act.size)
    elif act.what == "acknowledge":
        end.acknowledge()
    elif act.what == "pass":
        passing, end.under_way = end.under_way[: act.size], end.under_way[act.size :]
        other.hear(passing)
    elif act.what == "cut":
        cut(ends, act)
    else:
        move(ends, act)


def cut(ends: tuple[End, End], act: Act) -> None:
    """The one that dials greets, and goes on hearing what the old connection has for it until it is answered."""
    dialler, dialled = ends
    greeted = dialler.received.num_received
    welcomed = dialled.received.num_received
    dialler.hear(dialled.under_way[: act.size])
    dialled.connect(greeted)
    dialler.connect(welcomed)


def move(ends: tuple[End, End], act: Act) -> None:
    """Another connection is begun beside one that lives, over which more comes and is acknowledged before the greeting
    is read: what that says had arrived is less than what is known to have."""
    dialler, dialled = ends
    greeted = dialler.received.num_received
    dialler.hear(dialled.under_way[: act.size])
    dialler.acknowledge()
    dialled.hear(dialler.under_way)
    welcomed = dialled.received.num_received
    dialled.connect(greeted)
    dialler.connect(welcomed)


@settings(max_examples=300)
@given(st.lists(ACTS, max_size=60))
def test_over_any_cuts_what_is_heard_is_what_was_said(acts: list[Act]) -> None:
    ends = (End(), End())
    for act in acts:
        perform(ends, act)
        for end, other in (ends, ends[::-1]):
            assert other.heard == end.said[: len(other.heard)]
    for what in ("cut", "write", "acknowledge", "pass"):
        for number in range(2):
            perform(ends, Act(what, number, 10**6))
    for number in range(2):
        perform(ends, Act("acknowledge", number, 1))
        perform(ends, Act("pass", number, 10**6))
    for end, other in (ends, ends[::-1]):
        assert other.heard == end.said
        assert (end.sent.num_bytes, end.sent.num_frames) == (0, 0)


def test_what_comes_twice_is_dropped_and_a_gap_is_an_error() -> None:
    received = ReceivedFrames()
    assert [received.is_new(number) for number in (1, 2, 1, 2, 3)] == [True, True, False, False, True]
    with pytest.raises(BadFrame, match="frame 5 came after frame 3"):
        received.is_new(5)


def test_no_more_is_kept_than_there_is_room_for() -> None:
    sent = SentFrames(most_bytes=100)
    for _ in range(2):
        assert not sent.is_full
        sent.add(b"x" * 50)
    assert sent.is_full
    sent.take()
    sent.acknowledge(1)
    assert (sent.is_full, sent.num_bytes, sent.next_number) == (False, 50, 3)


@pytest.mark.parametrize("number", [0, 4, 2**64 - 1])
def test_what_was_never_sent_cannot_have_arrived(number: int) -> None:
    sent = SentFrames(most_bytes=100)
    for _ in range(4):
        sent.add(b"x")
    for _ in range(3):
        sent.take()
    sent.acknowledge(1)
    with pytest.raises(BadFrame, match="1 to 3"):
        sent.acknowledge(number)
    if number:
        with pytest.raises(BadFrame, match="1 to 3"):
            sent.resume(number)


def test_a_greeting_may_be_older_than_the_last_acknowledgement() -> None:
    """Two connections are under way at the same time where the last one is doubted, and answers after all."""
    sent = SentFrames(most_bytes=100)
    for number in range(4):
        sent.add(b"%d" % number)
        sent.take()
    sent.acknowledge(3)
    assert sent.resume(1) == 1
    assert sent.take() == b"3" and sent.next_number == 5
