"""Lasting sockets between processes of one host: what is posted goes through them instead of torch RPC.

A hop of decoding takes a fifth of the time that way (tests/bench/bare_rpc.py), and a lap is made of hops. The frames
are the same, and so is what they can make a device do. What an edge does not carry goes through RPC as before: calls,
handles, large tensors, and everything to other hosts.

A device asks a peer through RPC where it listens, and gets an address and a secret of its own. The sockets are Linux's
abstract ones: they have no file that could be left behind, and are seen in one network namespace only. They have no
permissions either, so the listener looks who connects: it takes nothing from another user, nor from one of this user
who does not begin with a secret that it has given out.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple

from shardnet.errors import ClusterError, ShardnetError
from shardnet.transport.failure import Failure, lost, timed_out
from shardnet.transport.outcomes import settle
from shardnet.transport.rpc.lines import MOST_BYTES, Line, LineReader
from shardnet.transport.timers import Timers
from shardnet.transport.wire.frames import Answer, Post, no_handle, pack, pack_posted, unpack
from shardnet.transport.wire.values import Undecodable, Unsendable

Serve = Callable[[Post], Any]
"""Runs the endpoint that is asked for; returns what it returned, or a `Failure`."""
HELLO = 0
"""The number of the first frame of a line: the secret."""
_CREDENTIALS = struct.Struct("iII")
"""Process, user, group."""


class _Due(NamedTuple):
    """An answer that is waited for."""

    answer: Future[Any]
    endpoint: str
    until_s: float
    timeout_s: float


class Edge:
    """A line on which this device asks a peer."""

    def __init__(self, device: str, line: Line, timers: Timers) -> None:
        self._device = device
        self._line = line
        self._timers = timers
        self._lock = threading.Lock()
        self._due: dict[int, _Due] = {}
        self._next_number = HELLO
        self._looks_at_s = float("inf")

    def post(self, endpoint: str, request: Post, timeout_s: float) -> Future[Any] | None:
        """Ask; None where this has to go through RPC."""
        try:
            frame, tensors = pack(request, no_handle)
        except (Unsendable, ClusterError):
            return None  # where it is an error, RPC says it
        if tensors or len(frame) > MOST_BYTES:
            return None
        due = _Due(Future(), endpoint, time.monotonic() + timeout_s, timeout_s)
        with self._lock:
            number = self._next_number = self._next_number + 1
            self._due[number] = due
            is_soonest = due.until_s < self._looks_at_s
            if is_soonest:
                self._looks_at_s = due.until_s
        if is_soonest:
            self._timers.after(timeout_s, self._look)
        if self._line.send(number, frame):
            return due.answer
        with self._lock:
            self._due.pop(number, None)
        return None

    def read(self) -> bool:
        """Answers have come. False at the end of the line."""
        frames = self._line.frames()
        for number, frame in frames or ():
            with self._lock:
                due = self._due.pop(number, None)
            if due is not None:  # or it comes too late
                settle(due.answer, self._outcome_of(due.endpoint, frame))
        if frames is None:
            self.end()
        return frames is not None

    def end(self, error_of: Callable[[str], ShardnetError] | None = None) -> None:
        """Ask nothing more; what is due fails."""
        with self._lock:  # before the line: whoever reads it fails what is due, too, and knows less
            ended, self._due = list(self._due.values()), {}
        self._line.close()
        for due in ended:
            settle(due.answer, lost(self._device, due.endpoint) if error_of is None else error_of(due.endpoint))

    def _outcome_of(self, endpoint: str, frame: bytes) -> Any:
        try:
            content = unpack(frame, [], _no_handles_arrive)
        except Exception as error:  # whatever reading it raises, it is no answer
            return ClusterError(f"{self._device} could not serve {endpoint!r}: {error}.")
        if type(content) is not Answer:
            return ClusterError(f"{self._device} could not serve {endpoint!r}: this is no answer.")
        return content.value

    def _look(self) -> None:
        """Runs on the timer thread: what is overdue fails, and the next look is when something may be again."""
        now_s = time.monotonic()
        with self._lock:
            overdue = {number: due for number, due in self._due.items() if due.until_s <= now_s}
            for number in overdue:
                del self._due[number]
            self._looks_at_s = min((due.until_s for due in self._due.values()), default=float("inf"))
            looks_at_s = self._looks_at_s
        if looks_at_s < float("inf"):
            self._timers.after(max(looks_at_s - now_s, 0.0), self._look)
        for due in overdue.values():
            settle(due.answer, timed_out(self._device, due.endpoint, due.timeout_s))


class Edges:
    """All lines of one device: those on which it asks, and those on which it is asked.

    Args:
        serve: answers what peers post.
    """

    def __init__(self, serve: Serve, timers: Timers) -> None:
        self._serve = serve
        self._timers = timers
        self._reader = LineReader()
        self._lock = threading.Lock()
        self._address = f"shardnet-{secrets.token_hex(16)}"
        self._is_listening: bool | None = None
        """None as long as nobody has asked."""
        self._secrets: dict[bytes, int] = {}
        """Those that were given out and not used yet, each with the id of the device that it is for."""
        self._asked_by: dict[Line, int] = {}
        self._edges: list[Edge] = []

    def place_for(self, peer_id: int) -> tuple[str, bytes] | None:
        """An address and a secret with which a peer may connect, once. None where there are no such sockets."""
        with self._lock:
            if self._is_listening is None:
                self._is_listening = self._listen()
            if not self._is_listening:
                return None
            secret = secrets.token_bytes(16)
            self._secrets[secret] = peer_id
        return self._address, secret

    def connect(self, device: str, address: str, secret: bytes) -> Edge | None:
        """An edge to the peer that listens there; None where it cannot be reached."""
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect("\0" + address)
        except (OSError, AttributeError):
            return None
        line = Line(connection, self._reader)
        line.send(HELLO, secret)
        edge = Edge(device, line, self._timers)
        with self._lock:
            self._edges.append(edge)
        self._reader.watch(connection, edge.read, line)
        return edge

    def drop(self, peer_id: int) -> None:
        """A device is gone: nothing more is read of it."""
        with self._lock:
            self._secrets = {secret: other for secret, other in self._secrets.items() if other != peer_id}
            lines = [line for line, other in self._asked_by.items() if other == peer_id]
        for line in lines:
            line.close()

    def close(self, error: ShardnetError) -> None:
        """End all lines; what is due fails with `error`. Safe to call twice."""
        with self._lock:
            edges, self._edges = self._edges, []
        for edge in edges:
            edge.end(lambda endpoint: error)
        self._reader.close()

    def _listen(self) -> bool:
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind("\0" + self._address)
        except (OSError, AttributeError, ValueError):  # no Linux
            return False
        listener.listen()
        listener.setblocking(False)
        self._reader.watch(listener, lambda: self._accept(listener))
        return True

    def _accept(self, listener: socket.socket) -> bool:
        with suppress(OSError):
            connection, _ = listener.accept()
            if _user_of(connection) != os.getuid():
                connection.close()
                return True
            line = Line(connection, self._reader)
            self._reader.watch(connection, lambda: self._read_requests(line), line)
        return True

    def _read_requests(self, line: Line) -> bool:
        frames = line.frames()
        for number, frame in frames or ():
            peer_id = self._asked_by.get(line)
            if peer_id is None:
                if not self._is_known(line, number, frame):
                    return False
            else:
                line.send(number, self._answer(peer_id, frame))
        if frames is None:
            with self._lock:
                self._asked_by.pop(line, None)
        return frames is not None

    def _is_known(self, line: Line, number: int, secret: bytes) -> bool:
        """Whether whoever connected knows a secret, which is used up by that."""
        with self._lock:
            peer_id = self._secrets.pop(secret, None) if number == HELLO else None
            if peer_id is not None:
                self._asked_by[line] = peer_id
        return peer_id is not None

    def _answer(self, peer_id: int, frame: bytes) -> bytes:
        """The frame that answers a request."""
        try:
            request = unpack(frame, [], _no_handles_arrive)
        except Exception as error:  # whatever reading it raises, it is no request
            return pack_posted(Failure("ClusterError", f"This device refused a message: {error}.", ""))
        if type(request) is not Post or request.sender != peer_id:
            return pack_posted(Failure("ClusterError", "This device refused a message: it is none of this peer's.", ""))
        outcome = self._serve(request)
        if outcome is None:
            return _NOTHING
        try:
            return pack_posted(outcome)
        except (Unsendable, ClusterError) as error:
            reason = f"This device could not serve {request.endpoint!r}: {error}"
            return pack_posted(Failure("ClusterError", reason, ""))


def _no_handles_arrive(_: Any) -> Any:
    raise Undecodable("a handle goes through RPC")


def _user_of(connection: socket.socket) -> int:
    """The user whose process is at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return int(user)


_NOTHING = pack_posted(None)
"""What most endpoints return."""
