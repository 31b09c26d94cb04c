"""Frames come out as they went in, however they are cut up, and nothing else is read as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardnet.tunnel import frames
from shardnet.tunnel.frames import BadFrame, Frame, FrameReader, Kind

NUMBERS = st.integers(1, 2**32 - 1)
COUNTS = st.integers(1, 2**64 - 1)


def any_frame() -> st.SearchStrategy[Frame]:
    return st.one_of(
        st.builds(Frame, st.just(Kind.OPEN), NUMBERS, COUNTS, st.binary(min_size=1, max_size=256)),
        st.builds(Frame, st.just(Kind.DATA), NUMBERS, COUNTS, st.binary(min_size=1, max_size=300)),
        st.builds(Frame, st.just(Kind.CREDIT), NUMBERS, COUNTS, st.binary(min_size=4, max_size=4)),
        st.builds(Frame, st.sampled_from([Kind.END, Kind.RESET]), NUMBERS, COUNTS, st.just(b"")),
        st.builds(Frame, st.sampled_from([Kind.ACK, Kind.WELCOME, Kind.PING]), st.just(0), COUNTS, st.just(b"")),
        st.builds(Frame, st.sampled_from([Kind.GOODBYE, Kind.REFUSED]), st.just(0), COUNTS, st.binary(max_size=50)),
    )


def read(reader: FrameReader, data: bytes) -> list[Frame]:
    """Feed it as a connection does: as much as there is room for."""
    came = []
    while data:
        room = reader.room()
        piece = data[: len(room)]
        room[: len(piece)] = piece
        came += reader.filled(len(piece))
        data = data[len(piece) :]
    return came


@given(st.lists(any_frame(), max_size=8), st.lists(st.integers(1, 200), max_size=20))
def test_frames_come_out_as_they_went_in(sent: list[Frame], cuts: list[int]) -> None:
    data = b"".join(map(frames.pack, *zip(*sent))) if sent else b""
    reader = FrameReader()
    came = []
    for cut in [*cuts, len(data)]:
        came += read(reader, data[:cut])
        data = data[cut:]
    assert came == sent


def test_the_largest_frames_fill_the_room_and_leave_it() -> None:
    largest = frames.pack(Kind.DATA, 1, 1, b"x" * frames.MOST_PAYLOAD_BYTES)
    came = read(FrameReader(), largest * 20)
    assert [len(frame.payload) for frame in came] == [frames.MOST_PAYLOAD_BYTES] * 20


@given(st.binary(max_size=200))
def test_hostile_bytes_raise_one_error_or_are_frames(data: bytes) -> None:
    reader = FrameReader()
    try:
        came = read(reader, data)
    except BadFrame:
        return
    assert data.startswith(b"".join(frames.pack(*frame) for frame in came))


@pytest.mark.parametrize(
    "data",
    [
        frames.HEAD.pack(0, 0, 0, 0, 0),
        frames.HEAD.pack(13, 0, 0, 0, 0),
        frames.HEAD.pack(Kind.ACK, 1, 0, 0, 0),
        frames.HEAD.pack(Kind.ACK, 0, 1, 0, 0),
        frames.HEAD.pack(Kind.ACK, 0, 0, 1, 0),
        frames.HEAD.pack(Kind.DATA, 0, 0, 1, 1),
        frames.HEAD.pack(Kind.DATA, 0, 1, 0, 1),
        frames.HEAD.pack(Kind.DATA, 0, 1, 1, 0),
        frames.HEAD.pack(Kind.OPEN, 0, 257, 1, 1),
        frames.HEAD.pack(Kind.CREDIT, 0, 5, 1, 1),
        frames.HEAD.pack(Kind.GOODBYE, 0, 513, 0, 0),
        b"GET / HTTP/1.1\r\nHost: laptop\r\n",
    ],
)
def test_what_no_gate_sends_is_refused_before_its_payload_has_come(data: bytes) -> None:
    with pytest.raises(BadFrame):
        read(FrameReader(), data)


def test_reasons_are_cut_and_shown_without_controls() -> None:
    data = frames.pack_reason(Kind.GOODBYE, "an end\x1b[2J" + "é" * 600)
    (frame,) = read(FrameReader(), data)
    assert frames.reason_in(frame).startswith("an end?[2Jéé")


def test_credit() -> None:
    (frame,) = read(FrameReader(), frames.pack_credit(7, 9, 2**32 - 1))
    assert (frame.stream, frame.number, frames.credit_in(frame)) == (7, 9, 2**32 - 1)
