"""Lasting sockets between processes of one host: who may use them, what they carry, and how they end."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import threading
import time
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
from shardnet.transport.rpc.edges import AGAIN_S, HELLO, Edge, Edges
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
        self.again: list[tuple[str, Post, Future[Any]]] = []
        """What was asked again, through what stands for RPC here."""

    def _serve(self, request: Post) -> Any:
        self.served.append(request)
        self.gate.wait(10)
        if request.endpoint == "refuse":
            return encode(BadRequest("that is no request."), "host", "refuse")
        return request.args[0] if request.args else None

    def edge(self, peer_id: int = PEER) -> Edge:
        edge = self.connect(self.asked.place_for(peer_id))
        assert edge is not None
        wait_until(lambda: edge.speaks, 5)
        return edge

    def connect(self, place: Any) -> Edge | None:
        return self.asks.connect("host", place, self._ask_again)

    def _ask_again(self, endpoint: str, request: Post, timeout_s: float) -> Future[Any]:
        answer: Future[Any] = Future()
        self.again.append((endpoint, request, answer))
        return answer

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


def test_who_does_not_answer_in_time_is_asked_through_rpc_until_it_speaks_again(host: Host) -> None:
    """Once, an edge that was stuck was used for ever: each hop went over it, timed out, and was sent over it again."""
    edge = host.edge()
    host.gate.clear()
    late, in_time = post(edge, 1, timeout_s=0.05), post(edge, 2)
    with pytest.raises(CallTimeout, match=r"host did not answer 'echo' within 0.05 s"):
        late.result(10)
    assert edge.post("echo", Post(PEER, "echo", ()), 1.0) is None
    host.gate.set()
    assert in_time.result(10) == 2, "and a late answer is nobody's"
    assert edge.speaks and post(edge, 3, timeout_s=5.0).result(10) == 3


def test_an_edge_is_greeted_until_something_comes(host: Host) -> None:
    """An answer may be lost, and no other be due: the edge would be silent for ever."""
    address = f"shardnet-{'0' * 31}{os.getpid() % 10}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + address)
        listener.listen()
        edge = host.connect((address, b"secret"))
        assert edge is not None
        connection, _ = listener.accept()
        with connection:
            other = Line(connection, host.asked._reader)
            connection.setblocking(True)
            assert other.frames() == [(HELLO, b"secret")]
            assert edge.post("echo", Post(PEER, "echo", ()), 1.0) is None, "nobody has taken it yet"
            other.send(HELLO, b"")
            wait_until(lambda: edge.speaks, 5)
            unanswered = post(edge, timeout_s=0.05)
            assert len(other.frames() or []) == 1
            with pytest.raises(CallTimeout):
                unanswered.result(10)
            assert other.frames() == [(HELLO, b"")] and not edge.speaks
            other.send(HELLO, b"")
            wait_until(lambda: edge.speaks, 5)


def test_where_no_file_is_left_edges_wait_and_nothing_spins(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, `accept` failed as fast as it could, and what went over the edge meanwhile was answered by nobody."""
    other, fails = host.edge(8), []

    def accept(_: socket.socket) -> Any:
        fails.append(time.monotonic())
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "accept", accept)
        edge = host.connect(host.asked.place_for(PEER))
        assert edge is not None
        wait_until(lambda: len(fails) == 3, 5)
        assert fails[2] - fails[0] > 1.5 * AGAIN_S, "it was tried again, but not at once"
        assert not edge.speaks and edge.post("echo", Post(PEER, "echo", ()), 1.0) is None
        answer = other.post("echo", Post(8, "echo", (1,)), 5.0)
        assert answer is not None and answer.result(5) == 1, "other lines are read on"
    wait_until(lambda: edge.speaks, 5)
    assert post(edge, 2).result(5) == 2


def test_what_is_due_at_the_end_of_an_edge_is_asked_again(host: Host) -> None:
    """Once, the end of an edge was told as that of its device, which was struck off for it."""
    edge = host.edge()
    host.gate.clear()
    due = post(edge, 5)
    wait_until(lambda: len(host.served) == 1, 5)
    host.asked.drop(PEER)
    wait_until(lambda: len(host.again) == 1, 5)
    [(endpoint, request, answer)] = host.again
    assert (endpoint, request.args, edge.is_over) == ("echo", (5,), True)
    answer.set_exception(DeviceLost("RPC knows that it is dead", "host"))
    with pytest.raises(DeviceLost, match="RPC knows"):
        due.result(10)
    assert edge.post("echo", Post(PEER, "echo", ()), 1.0) is None
    wait_until(lambda: not host.asks._edges, 5)


def test_what_is_due_where_this_device_leaves_fails(host: Host) -> None:
    other = host.edge()
    host.gate.clear()
    due = post(other)
    host.asks.close(has_left("asker"))
    with pytest.raises(ClusterError, match="asker has left"):
        due.result(10)
    host.asks.close(has_left("asker"))
    assert host.again == [] and host.connect(host.asked.place_for(PEER)) is not None, "it never speaks"


def test_an_edge_that_cannot_be_read_is_over(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, its socket was closed, and neither line nor edge knew: each post waited for its time to run out."""
    edge = host.edge()

    def fail() -> Any:
        raise ValueError("nonsense")

    monkeypatch.setattr(edge._line, "frames", fail)
    due = post(edge, 1)
    wait_until(lambda: len(host.again) == 1, 5)
    host.again[0][2].set_result("through RPC")
    assert due.result(10) == "through RPC" and edge.post("echo", Post(PEER, "echo", ()), 1.0) is None
    assert "reading a line failed: ValueError: nonsense" in caplog.text
    assert post(host.edge(), 2).result(10) == 2


@pytest.mark.parametrize(
    "place",
    [None, 5, (), ("shardnet-" + "0" * 32,), (5, b"x" * 16), ("shardnet-" + "0" * 32, "x"), ("nonsense", b"x" * 16)],
)
def test_a_place_that_is_none_leads_nowhere(host: Host, place: Any) -> None:
    """Once, a peer that told nonsense had this device print a traceback, or connect wherever it liked."""
    assert host.connect(place) is None


def test_an_edge_to_nobody_is_none(host: Host) -> None:
    assert host.connect(("shardnet-" + "f" * 32, b"x" * 16)) is None


def test_a_device_that_was_struck_off_is_not_heard_any_more(host: Host) -> None:
    edge, other = host.edge(), host.edge(8)
    assert post(edge).result(10) is None
    place = host.asked.place_for(PEER)
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
    edge = host.connect(place)
    assert edge is not None
    wait_until(lambda: edge.speaks, 5)
    assert post(edge, 1).result(10) == 1
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


def test_a_line_that_cannot_send_says_so() -> None:
    """Once, it said that everything was sent."""
    ours, theirs = socket.socketpair()
    reader = LineReader()
    line = Line(ours, reader)
    theirs.close()
    assert not line.send(1, b"x") and not line.send(2, b"x")
    ours.close()
    reader.close()
    reader.close()


def test_half_a_frame_is_never_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, an error while the rest of a frame was sent threw the rest away, and the next frame followed the half."""
    ours, theirs = socket.socketpair()
    reader = LineReader()
    line = Line(ours, reader)
    while not line._unsent:
        assert line.send(1, b"y" * 100_000)

    class Full:
        """A socket of a system that has no memory for what is sent."""

        def send(self, _: object) -> int:
            raise OSError(errno.ENOBUFS, "No buffer space available")

        def __getattr__(self, name: str) -> Any:
            return getattr(ours, name)

    monkeypatch.setattr(line, "socket", Full())
    assert not line.send_rest() and not line.send(2, b"z")
    received = b""
    while arrived := theirs.recv(2**16):
        received += arrived
    assert b"z" not in received
    ours.close()
    theirs.close()
    reader.close()


def test_a_reader_that_is_closed_ends_what_it_is_given() -> None:
    ours, theirs = socket.socketpair()
    reader = LineReader()
    reader.close()
    line, ended = Line(ours, reader), threading.Event()
    reader.watch(ours, lambda: True, ended.set, line)
    assert ended.is_set() and not line.send(1, b"x") and ours.fileno() == -1
    theirs.close()


def test_a_reader_whose_thread_cannot_start_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, it waited for a thread that there was not, and what came after it in the closing was left undone."""
    ours, theirs = socket.socketpair()
    reader = LineReader()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start"):
            reader.watch(ours, lambda: True, nothing)
    reader.close()
    for each in (ours, theirs):
        each.close()


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def nothing() -> None:
    """For lines whose end is nobody's concern."""


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
    reader.watch(ours, lambda: True, nothing, line)
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
    edge = host.connect(place)
    assert edge is not None
    wait_until(lambda: edge.speaks, 5)
    assert post(edge, 1).result(10) == 1, "the secret was not used up"


@pytest.mark.root
def test_a_listener_of_another_user_is_told_nothing(host: Host) -> None:
    """Once, only who listened looked: who connected believed whatever address it was told."""
    address = f"shardnet-{'1' * 31}{os.getpid() % 10}"
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("\0" + address)
            listener.listen()
            os.write(writing, b"!")
            with listener.accept()[0] as connection:
                connection.settimeout(5)
                os._exit(0 if connection.recv(100) == b"" else 1)
    os.read(reading, 1)
    assert host.connect((address, b"x" * 16)) is None
    assert os.waitpid(child, 0)[1] == 0
    os.close(reading)
    os.close(writing)
