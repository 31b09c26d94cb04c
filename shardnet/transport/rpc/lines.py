"""Sockets that carry numbered frames, and the one thread that reads all of a process's.

frame   length (4 bytes) | number (8 bytes) | so many bytes
"""

from __future__ import annotations

import logging
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

MOST_BYTES = 2**20
"""Of a frame."""
MOST_UNSENT_BYTES = 2**24
"""What waits for a peer that does not read."""
_HEAD = struct.Struct("<IQ")
_CHUNK_BYTES = 2**16
_log = logging.getLogger(__name__)


class Line:
    """One connection. Sends from any thread, and never waits."""

    def __init__(self, connection: socket.socket, reader: LineReader) -> None:
        connection.setblocking(False)
        self.socket = connection
        self._reader = reader
        self._lock = threading.Lock()
        self._received = bytearray()
        self._unsent = bytearray()
        self._is_closed = False

    def send(self, number: int, frame: bytes) -> bool:
        """Send now what the system takes, and the rest soon; False where too much waits, or the line is closed."""
        message = _HEAD.pack(len(frame), number) + frame
        with self._lock:
            if self._is_closed or len(self._unsent) > MOST_UNSENT_BYTES:
                return False
            if self._unsent:
                self._unsent += message
                return True
            num_sent = self._send_some(message)
            if num_sent == len(message):
                return True
            self._unsent += message[num_sent:]
        self._reader.send_rest_of(self)
        return True

    def send_rest(self) -> bool:
        """The system takes more; whether there is still more."""
        with self._lock:
            del self._unsent[: self._send_some(self._unsent)]
            return bool(self._unsent)

    def frames(self) -> list[tuple[int, bytes]] | None:
        """What has arrived and is whole; None at the end, and where a frame says that it is longer than any may be."""
        try:
            arrived = self.socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return self._cut(arrived) if arrived else None

    def close(self) -> None:
        """Safe to call twice, from any thread. The reader sees it as the end."""
        with self._lock:
            self._is_closed = True
            self._unsent.clear()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def _cut(self, arrived: bytes) -> list[tuple[int, bytes]] | None:
        received = self._received
        received += arrived
        frames, start = [], 0
        while len(received) - start >= _HEAD.size:
            length, number = _HEAD.unpack_from(received, start)
            if length > MOST_BYTES:
                return None
            end = start + _HEAD.size + length
            if len(received) < end:
                break
            frames.append((number, bytes(received[start + _HEAD.size : end])))
            start = end
        del received[:start]
        return frames

    def _send_some(self, message: bytes | bytearray) -> int:
        try:
            return self.socket.send(message)
        except BlockingIOError:
            return 0
        except OSError:  # the reader sees the end of this line
            return len(message)


class _Watched(NamedTuple):
    """A socket, and what to do when something has arrived there; that returns False at its end."""

    socket: socket.socket
    arrive: Callable[[], bool]
    line: Line | None


class LineReader:
    """The thread. It starts with the first socket that it is to watch."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake_up = socket.socketpair()
        self._woken.setblocking(False)
        self._wake_up.setblocking(False)
        self._lock = threading.Lock()
        self._new: list[_Watched] = []
        self._unsent: list[Line] = []
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def watch(self, sock: socket.socket, arrive: Callable[[], bool], line: Line | None = None) -> None:
        """Call `arrive` whenever something has arrived, until it returns False; then close the socket."""
        with self._lock:
            if self._is_closed:
                sock.close()
                return
            self._new.append(_Watched(sock, arrive, line))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shardnet-lines", daemon=True)
                self._thread.start()
        self._wake()

    def send_rest_of(self, line: Line) -> None:
        """The system did not take all of what is to be sent."""
        with self._lock:
            self._unsent.append(line)
        self._wake()

    def close(self) -> None:
        """Close every socket and end the thread. Safe to call twice."""
        with self._lock:
            self._is_closed = True
            thread = self._thread
        self._wake()
        if thread is None:
            self._close_all()
        elif thread is not threading.current_thread():
            thread.join()

    def _wake(self) -> None:
        with suppress(OSError):
            self._wake_up.send(b"\0")

    def _run(self) -> None:
        self._selector.register(self._woken, selectors.EVENT_READ)
        while not self._is_closed:
            self._take_news()
            for key, events in self._selector.select():
                if key.fileobj is self._woken:
                    self._woken.recv(_CHUNK_BYTES)
                    continue
                watched: _Watched = key.data
                if events & selectors.EVENT_WRITE and watched.line is not None and not watched.line.send_rest():
                    self._selector.modify(watched.socket, selectors.EVENT_READ, watched)
                if events & selectors.EVENT_READ and not self._has_more(watched):
                    self._selector.unregister(watched.socket)
                    watched.socket.close()
        self._close_all()

    def _has_more(self, watched: _Watched) -> bool:
        try:
            return watched.arrive()
        except Exception as error:  # whatever it is, the other lines are read on
            _log.error("reading a line failed: %s: %s", type(error).__name__, error)
            return False

    def _take_news(self) -> None:
        with self._lock:
            new, self._new = self._new, []
            unsent, self._unsent = self._unsent, []
        for watched in new:
            self._selector.register(watched.socket, selectors.EVENT_READ, watched)
        lines = {key.data.line: key for key in self._selector.get_map().values() if key.data is not None}
        for line in unsent:
            if line in lines:
                both = selectors.EVENT_READ | selectors.EVENT_WRITE
                self._selector.modify(line.socket, both, lines[line].data)

    def _close_all(self) -> None:
        with self._lock:
            new, self._new = self._new, []
        for watched in [*new, *(key.data for key in self._selector.get_map().values() if key.data is not None)]:
            watched.socket.close()
        self._selector.close()
        self._woken.close()
        self._wake_up.close()
