"""Lasting sockets between processes of one host: who may use them, what they carry, and how they end."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import wait_until

from shardnet.errors import BadRequest, CallTimeout, ClusterError, DeviceLost
from shardnet.transport.failure import encode, has_left
from shardnet.transport.rpc.edges import Edge, Edges
from shardnet.transport.rpc.lines import MOST_BYTES, MOST_UNSENT_BYTES, Line, LineReader
from shardnet.transport.timers import Timers
from shardnet.transport.wire.frames import Call, Post, pack

PEER = 7
"""The id of the device that asks."""


class Host:
    """A device that is asked, and the edges of one that asks."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.served: list[Post] = []
        self.gate = threading.Event()
        self.gate.set()
        self.asked = Edges(self._serve, self.timers)
        self.asks = Edges(lambda request: None, self.timers)

    def _serve(self, request: Post) -> Any:
        self.served.append(request)
        self.gate.wait(10)
        if request.endpoint == "refuse":
            return encode(BadRequest("that is no request."), "host", "refuse")
        return request.args[0] if request.args else None

    def edge(self, peer_id: int = PEER) -> Edge:
        place = self.asked.place_for(peer_id)
        assert place is not None
        edge = self.asks.connect("host", *place)
        assert edge is not None
        return edge

    def close(self) -> None:
        self.gate.set()
        self.asks.close(has_left("asker"))
        self.asked.close(has_left("host"))
        self.timers.close()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


def post(edge: Edge, *args: Any, endpoint: str = "echo", timeout_s: float = 10.0) -> Future[Any]:
    answer = edge.post(endpoint, Post(PEER, endpoint, args), timeout_s)
    assert answer is not None
    return answer


def test_what_is_asked_is_answered_and_errors_keep_their_class(host: Host) -> None:
    edge = host.edge()
    rows = torch.arange(12.0).view(3, 4)
    assert post(edge).result(10) is None
    assert torch.equal(post(edge, rows).result(10), rows)
    with pytest.raises(BadRequest, match="no request"):
        post(edge, endpoint="refuse").result(10)


def test_many_threads_get_their_own_answers(host: Host) -> None:
    """Answers carry where they belong: the thread, and the number of its question."""
    edge, wrong = host.edge(), []

    def ask(thread: int) -> None:
        chance = random.Random(thread)
        answers = [(number, post(edge, (thread, number, b"x" * chance.randint(0, 5000)))) for number in range(200)]
        wrong.extend(number for number, answer in answers if answer.result(20)[:2] != (thread, number))

    threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(host.served) == 2400


def test_what_an_edge_does_not_carry_is_left_to_rpc(host: Host) -> None:
    edge = host.edge()
    assert edge.post("echo", Post(PEER, "echo", (torch.zeros(100_000),)), 1.0) is None, "a large tensor"
    assert edge.post("echo", Post(PEER, "echo", (b"x" * (MOST_BYTES + 1),)), 1.0) is None, "a long frame"
    assert edge.post("echo", Post(PEER, "echo", (object(),)), 1.0) is None, "what may not travel"
    assert host.served == [] and post(edge, 5).result(10) == 5


def test_an_answer_that_is_too_large_is_an_error_and_the_edge_lives_on(host: Host) -> None:
    edge = host.edge()
    host.asked._serve = lambda request: torch.zeros(100_000)
    with pytest.raises(ClusterError, match="too large for `post`"):
        post(edge).result(10)
    host.asked._serve = host._serve
    assert post(edge, 5).result(10) == 5


def test_who_does_not_answer_in_time_fails_and_a_late_answer_is_nobodys(host: Host) -> None:
    edge = host.edge()
    host.gate.clear()
    late, in_time = post(edge, 1, timeout_s=0.05), post(edge, 2)
    with pytest.raises(CallTimeout, match=r"host did not answer 'echo' within 0.05 s"):
        late.result(10)
    host.gate.set()
    assert in_time.result(10) == 2 and post(edge, 3, timeout_s=5.0).result(10) == 3


def test_an_end_fails_what_is_due(host: Host) -> None:
    edge = host.edge()
    host.gate.clear()
    due = post(edge)
    wait_until(lambda: len(host.served) == 1, 5)
    host.asked.drop(PEER)
    with pytest.raises(DeviceLost, match="connection to host broke"):
        due.result(10)
    assert edge.post("echo", Post(PEER, "echo", ()), 1.0) is None
    other = host.edge()
    due = post(other)
    host.asks.close(has_left("asker"))
    with pytest.raises(ClusterError, match="asker has left"):
        due.result(10)


def test_a_device_that_was_struck_off_is_not_heard_any_more(host: Host) -> None:
    place = host.asked.place_for(PEER)
    edge, other = host.edge(), host.edge(8)
    assert post(edge).result(10) is None
    host.asked.drop(PEER)
    wait_until(lambda: edge.post("echo", Post(PEER, "echo", ()), 1.0) is None, 5)
    assert place is not None
    assert ends(host, place[1]), "nor with a secret that it was given before"
    answer = other.post("echo", Post(8, "echo", (1,)), 5.0)
    assert answer is not None and answer.result(10) == 1


def ends(host: Host, *messages: bytes) -> bool:
    """Whether the host ends a connection on which these are said, the first of them as a secret."""
    place = host.asked.place_for(99)
    assert place is not None
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(5)
        stranger.connect("\0" + place[0])
        try:
            for number, message in enumerate(messages):
                stranger.sendall(struct.pack("<IQ", len(message), number) + message)
            return stranger.recv(100) == b""
        except (BrokenPipeError, ConnectionResetError):  # it hung up between two of them
            return True


def test_who_knows_no_secret_is_not_served(host: Host) -> None:
    request = pack(Post(PEER, "echo", ()), lambda handle: None)[0]  # type: ignore[arg-type,return-value]
    place = host.asked.place_for(PEER)
    assert place is not None
    assert ends(host, b"x" * 16, request) and ends(host, b"", request) and ends(host, request, request)
    edge = host.asks.connect("host", *place)
    assert edge is not None and post(edge, 1).result(10) == 1
    assert ends(host, place[1], request), "a secret is used up by its first use"
    assert len(host.served) == 1


def test_a_peer_can_ask_in_its_own_name_only_and_nothing_but_posts(host: Host) -> None:
    edge = host.edge()
    for request in (Post(8, "echo", ()), Call(PEER, "echo", ())):
        answer = edge.post("echo", request, 5.0)  # type: ignore[arg-type]
        assert answer is not None
        with pytest.raises(ClusterError, match="none of this peer's"):
            answer.result(10)
    assert host.served == [] and post(edge, 1).result(10) == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(1, 400), min_size=1, max_size=10))
def test_frames_arrive_whole_however_they_are_cut(frames: list[bytes], cuts: list[int]) -> None:
    ours, theirs = socket.socketpair()
    reader = LineReader()
    line = Line(theirs, reader)
    stream = b"".join(struct.pack("<IQ", len(frame), 5 * number) + frame for number, frame in enumerate(frames))
    arrived: list[tuple[int, bytes]] = []
    position = 0
    while position < len(stream):
        size = cuts[position % len(cuts)]
        ours.sendall(stream[position : position + size])
        arrived += line.frames() or []
        position += size
    assert arrived == [(5 * number, frame) for number, frame in enumerate(frames)]
    ours.close()
    assert line.frames() is None
    theirs.close()
    reader.close()


def test_a_frame_that_says_it_is_too_long_ends_its_line(host: Host) -> None:
    place = host.asked.place_for(PEER)
    assert place is not None
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(5)
        stranger.connect("\0" + place[0])
        stranger.sendall(struct.pack("<IQ", 2**32 - 1, 0))
        assert stranger.recv(100) == b""


def test_a_peer_that_does_not_read_holds_up_nobody() -> None:
    """What the system does not take waits here, up to a limit, and goes out when the peer reads again."""
    ours, theirs = socket.socketpair()
    reader = LineReader()
    line = Line(ours, reader)
    reader.watch(ours, lambda: True, line)
    frame, num_sent = b"y" * 100_000, 0
    while line.send(num_sent, frame):
        num_sent += 1
    assert MOST_UNSENT_BYTES < num_sent * len(frame) < 2 * MOST_UNSENT_BYTES
    other = Line(theirs, reader)
    theirs.setblocking(True)
    numbers: list[int] = []
    while len(numbers) < num_sent:
        numbers += [number for number, each in other.frames() or () if each == frame]
    assert numbers == list(range(num_sent))
    reader.close()
    theirs.close()


@pytest.mark.root
def test_another_user_is_not_served_with_the_secret_either(host: Host) -> None:
    """An abstract socket has no permissions: any process of this network namespace can connect."""
    place = host.asked.place_for(PEER)
    assert place is not None
    child = os.fork()
    if not child:
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect("\0" + place[0])
            stranger.settimeout(5)
            was_ended = False
            try:
                stranger.sendall(struct.pack("<IQ", 16, 0) + place[1])
                was_ended = stranger.recv(100) == b""
            except OSError:
                was_ended = True
        os._exit(0 if was_ended else 1)
    assert os.waitpid(child, 0)[1] == 0
    edge = host.asks.connect("host", *place)
    assert edge is not None and post(edge, 1).result(10) == 1, "the secret was not used up"
