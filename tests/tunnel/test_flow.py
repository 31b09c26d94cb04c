"""Nothing is sent without credit, all credit comes back, and what is sent is what was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardnet.tunnel.flow import Incoming, Outgoing, SharedCredit
from shardnet.tunnel.frames import BadFrame


@given(st.lists(st.tuples(st.sampled_from(["write", "take", "give"]), st.integers(1, 50)), max_size=60))
def test_what_is_taken_is_what_was_written_and_never_more_than_the_credit(acts: list[tuple[str, int]]) -> None:
    outgoing = Outgoing(credit_bytes=30)
    written = taken = b""
    credit = 30
    for what, size in acts:
        if what == "write":
            piece = bytes([len(written) % 256]) * size
            outgoing.add(piece)
            written += piece
        elif what == "give":
            outgoing.give(size)
            credit += size
        else:
            num_bytes, pieces = outgoing.take(size)
            assert num_bytes == sum(map(len, pieces)) <= size
            taken += b"".join(pieces)
        assert len(taken) <= credit and outgoing.num_bytes == len(written) - len(taken)
        assert outgoing.can_send == (len(taken) < min(credit, len(written)))
    assert written.startswith(taken)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 400)), max_size=80))
def test_readers_that_take_all_are_never_out_of_credit_and_bounded_together(acts: list[tuple[int, int]]) -> None:
    shared = SharedCredit(1000)
    ends = {stream: (Outgoing(100), Incoming(100, 800, shared)) for stream in (1, 2, 3)}
    for stream, size in acts:
        outgoing, incoming = ends[stream]
        outgoing.add(b"x" * size)
        while outgoing.can_send:
            num_bytes, _ = outgoing.take(64)
            incoming.arrive(num_bytes)
            outgoing.give(incoming.read(num_bytes))
        assert outgoing.num_bytes == 0
        assert shared.num_bytes >= 0
    for _, incoming in ends.values():
        incoming.end()
        incoming.end()
    assert shared.num_bytes == 1000


def test_credit_grows_for_a_reader_that_takes_all_and_no_further_than_it_may() -> None:
    incoming = Incoming(100, 400, SharedCredit(10_000))
    under_way = 100
    for _ in range(100):
        incoming.arrive(50)
        under_way += incoming.read(50) - 50
    assert 350 <= under_way <= 400


def test_who_reads_nothing_gives_no_credit_and_more_than_credit_is_an_error() -> None:
    incoming = Incoming(100, 400, SharedCredit(10_000))
    incoming.arrive(100)
    with pytest.raises(BadFrame, match="sent 1 bytes, and had credit for 0"):
        incoming.arrive(1)
