"""Lasting sockets between processes of one host: what is posted goes through them instead of torch RPC.

A hop of decoding takes a fifth of the time that way (tests/bench/bare_rpc.py), and a lap is made of hops. The frames
are the same, and so is what they can make a device do. What an edge does not carry goes through RPC as before: calls,
handles, large tensors, and everything to other hosts.

An edge is used while it *speaks*: once the other end has greeted, and until something was not answered in time; the
other end is greeted again then, and the edge speaks when anything comes. The end of an edge says nothing of the device:
what was due is asked again through RPC, which knows.

A device asks a peer through RPC where it listens, and gets an address and a secret of its own. The sockets are Linux's
abstract ones: they have no file that could be left behind, and are seen in one network namespace only. They have no
permissions either, so both ends look whose process is at the other one, and take nothing from another user; and who
connects begins with the secret that it was given.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from shardnet.errors import ClusterError, ShardnetError
from shardnet.transport.dues import Due, Dues
from shardnet.transport.failure import Failure
from shardnet.transport.outcomes import pass_on, settle
from shardnet.transport.rpc.lines import MOST_BYTES, Line, LineReader
from shardnet.transport.timers import Timers
from shardnet.transport.wire.frames import Answer, Post, no_handle, pack, pack_posted, unpack
from shardnet.transport.wire.values import Undecodable, Unsendable

Serve = Callable[[Post], Any]
"""Runs the endpoint that is asked for; returns what it returned, or a `Failure`."""
Ask = Callable[[str, Post, float], "Future[Any]"]
"""Asks through RPC: the endpoint, the request, and how long the answer may take."""
HELLO = 0
"""The number of greetings. The first one of who connects is the secret, all others are empty; each is answered."""
AGAIN_S = 0.1
"""After which connections are taken again, when this process had no file left for one."""
_ADDRESS = re.compile(r"shardnet-[0-9a-f]{32}")
_CREDENTIALS = struct.Struct("iII")
"""Process, user, group."""


class Edge:
    """A line on which this device asks a peer.

    Args:
        again: asks for what is due when the line ends.
    """

    def __init__(self, device: str, line: Line, timers: Timers, again: Ask) -> None:
        self.speaks = False
        """Whether it is to be used."""
        self._device = device
        self._line = line
        self._again = again
        self._dues = Dues(device, timers, self._greet)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._dues.is_over

    def post(self, endpoint: str, request: Post, timeout_s: float) -> Future[Any] | None:
        """Ask; None where this has to go through RPC."""
        if not self.speaks:
            return None
        try:
            frame, tensors = pack(request, no_handle)
        except (Unsendable, ClusterError):
            return None  # where it is an error, RPC says it
        if tensors or len(frame) > MOST_BYTES:
            return None
        added = self._dues.add(endpoint, request, timeout_s)
        if added is None:
            return None
        number, answer = added
        if self._line.send(number, frame) or self._dues.take(number) is None:
            return answer  # or it is over, and has asked again already
        return None

    def read(self) -> bool:
        """Answers have come. False at the end of the line."""
        frames = self._line.frames()
        for number, frame in frames or ():
            self.speaks = True
            due = self._dues.take(number)
            if due is not None:  # or it comes too late, or is a greeting
                settle(due.answer, self._outcome_of(due.endpoint, frame))
        return frames is not None

    def end(self, error_of: Callable[[str], ShardnetError] | None = None) -> None:
        """Ask nothing more here. What is due is asked again, or fails with what `error_of` makes of its endpoint."""
        ended = self._dues.end()  # before the line: whoever reads it ends this, too, and knows less
        self._line.close()
        for due in ended:
            if error_of is None:
                self._ask_again(due)
            else:
                settle(due.answer, error_of(due.endpoint))

    def _ask_again(self, due: Due) -> None:
        left_s = due.until_s - time.monotonic()
        self._again(due.endpoint, due.request, left_s).add_done_callback(partial(pass_on, due.answer))

    def _greet(self) -> None:
        """Something was not answered in time: see whether there is anybody."""
        self.speaks = False
        self._line.send(HELLO, b"")

    def _outcome_of(self, endpoint: str, frame: bytes) -> Any:
        try:
            content = unpack(frame, [], _no_handles_arrive)
        except Exception as error:  # whatever reading it raises, it is no answer
            return ClusterError(f"{self._device} could not serve {endpoint!r}: {error}.")
        if type(content) is not Answer:
            return ClusterError(f"{self._device} could not serve {endpoint!r}: this is no answer.")
        return content.value


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
        self._secrets: dict[int, bytes] = {}
        """Those that were given out and not used yet, by the id of the device that each is for."""
        self._asked_by: dict[Line, int] = {}
        self._edges: set[Edge] = set()

    def place_for(self, peer_id: int) -> tuple[str, bytes] | None:
        """An address and a secret with which a peer may connect, once: the last one that it was given.

        None where there are no such sockets.
        """
        with self._lock:
            if self._is_listening is None:
                self._is_listening = self._listen()
            if not self._is_listening:
                return None
            secret = self._secrets[peer_id] = secrets.token_bytes(16)
        return self._address, secret

    def connect(self, device: str, place: Any, again: Ask) -> Edge | None:
        """An edge to the peer that has told this place, which may be anything; None where it cannot be reached.

        It does not speak yet: whoever listens takes it when it can.
        """
        if not _is_place(place):
            return None
        address, secret = place
        connection = _connected(address)
        if connection is None:
            return None
        line = Line(connection, self._reader)
        edge = Edge(device, line, self._timers, again)
        with self._lock:
            self._edges.add(edge)
        line.send(HELLO, secret)
        try:
            self._reader.watch(connection, edge.read, partial(self._forget, edge), line)
        except RuntimeError:  # no thread can be started
            self._forget(edge)
            return None
        return edge

    def drop(self, peer_id: int) -> None:
        """A device is gone: nothing more is taken from it. What it is asked is the caller's to end."""
        with self._lock:
            self._secrets.pop(peer_id, None)
            lines = [line for line, other in self._asked_by.items() if other == peer_id]
        for line in lines:
            line.close()

    def close(self, error: ShardnetError) -> None:
        """End all lines; what is due fails with `error`. Safe to call twice."""
        with self._lock:
            edges = list(self._edges)
        for edge in edges:
            edge.end(lambda endpoint: error)
        self._reader.close()

    def _forget(self, edge: Edge) -> None:
        edge.end()
        with self._lock:
            self._edges.discard(edge)

    def _listen(self) -> bool:
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind("\0" + self._address)
        except (OSError, AttributeError, ValueError):  # no Linux
            return False
        listener.listen()
        listener.setblocking(False)
        self._reader.watch(listener, lambda: self._accept(listener), _nothing)
        return True

    def _accept(self, listener: socket.socket) -> bool:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:  # who connected is gone again
            return True
        except OSError:  # no file is left: who connects waits, and the other lines are read on
            self._reader.rest(listener, AGAIN_S)
            return True
        if not _is_of_this_user(connection):
            connection.close()
            return True
        line = Line(connection, self._reader)
        self._reader.watch(connection, partial(self._read_requests, line), partial(self._unlist, line), line)
        return True

    def _unlist(self, line: Line) -> None:
        with self._lock:
            self._asked_by.pop(line, None)

    def _read_requests(self, line: Line) -> bool:
        frames = line.frames()
        for number, frame in frames or ():
            peer_id = self._asked_by.get(line)
            if number == HELLO and (peer_id is not None or self._is_known(line, frame)):
                line.send(HELLO, b"")
            elif peer_id is None:
                return False
            else:
                line.send(number, self._answer(peer_id, frame))
        return frames is not None

    def _is_known(self, line: Line, secret: bytes) -> bool:
        """Whether whoever connected knows a secret, which is used up by that."""
        with self._lock:
            for peer_id, given in self._secrets.items():
                if hmac.compare_digest(secret, given):
                    del self._secrets[peer_id]
                    self._asked_by[line] = peer_id
                    return True
        return False

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


def _nothing() -> None:
    """Nobody minds that no more connections are taken."""


def _is_place(told: Any) -> bool:
    if type(told) is not tuple or [type(part) for part in told] != [str, bytes]:
        return False
    return _ADDRESS.fullmatch(told[0]) is not None


def _connected(address: str) -> socket.socket | None:
    """A connection to a process of this user; None where none listens there that can take one at once."""
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except (OSError, AttributeError):  # no Linux
        return None
    try:
        connection.setblocking(False)
        connection.connect("\0" + address)
    except OSError:
        connection.close()
        return None
    if not _is_of_this_user(connection):
        connection.close()
        return None
    return connection


def _is_of_this_user(connection: socket.socket) -> bool:
    """Whether the process at the other end is this user's. Of a listener, whoever called `listen` is meant."""
    try:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return False
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return bool(user == os.geteuid())


_NOTHING = pack_posted(None)
"""What most endpoints return."""
