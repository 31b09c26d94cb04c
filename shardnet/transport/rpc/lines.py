"""Sockets that carry numbered frames, and the one thread that reads all of a process's.

frame   length (4 bytes) | number (8 bytes) | so many bytes

A line that cannot send is closed, and so is one that cannot be read: whatever ends it, its owner is told, once.
"""

from __future__ import annotations

import logging
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from shardnet.transport.wire.frames import MOST_POSTED_BYTES

MOST_BYTES = MOST_POSTED_BYTES
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
            if self._is_closed:
                return False
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
            self._shut()

    def _shut(self) -> None:
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
        except OSError:  # part of a frame may have left: nothing can follow
            self._shut()
            return 0


class _Watched(NamedTuple):
    """A socket, what to do when something has arrived there, and what at its end."""

    socket: socket.socket
    arrive: Callable[[], bool]
    end: Callable[[], object]
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
        self._resting: list[tuple[float, _Watched]] = []
        """Each with when it is watched again. The thread's own."""
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def watch(
        self, sock: socket.socket, arrive: Callable[[], bool], end: Callable[[], object], line: Line | None = None
    ) -> None:
        """Call `arrive` whenever something has arrived, until it returns False or raises.

        Then, and where the reader is closed, `line` and the socket are closed, and `end` is called, once.

        Raises:
            RuntimeError: there can be no thread.
        """
        watched = _Watched(sock, arrive, end, line)
        with self._lock:
            is_closed = self._is_closed
            if not is_closed:
                self._start()
                self._new.append(watched)
        if is_closed:
            _end(watched)
        else:
            self._wake()

    def send_rest_of(self, line: Line) -> None:
        """The system did not take all of what is to be sent."""
        with self._lock:
            self._unsent.append(line)
        self._wake()

    def rest(self, sock: socket.socket, rest_s: float) -> None:
        """Do not watch a socket for a while. To be called by its `arrive`."""
        watched = self._selector.unregister(sock).data
        self._resting.append((time.monotonic() + rest_s, watched))

    def close(self) -> None:
        """Close every socket and end the thread. Safe to call twice."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            thread = self._thread
        if thread is None:
            if not was_closed:
                self._end_all()
            return
        self._wake()
        if thread is not threading.current_thread():
            thread.join()

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="shardnet-lines", daemon=True)
            thread.start()
            self._thread = thread

    def _wake(self) -> None:
        with suppress(OSError):
            self._wake_up.send(b"\0")

    def _run(self) -> None:
        try:
            self._selector.register(self._woken, selectors.EVENT_READ)
            while not self._is_closed:
                self._take_news()
                for key, events in self._selector.select(self._rest_s()):
                    if key.fileobj is self._woken:
                        self._woken.recv(_CHUNK_BYTES)
                    else:
                        self._serve(key.data, events)
        finally:
            with self._lock:
                self._is_closed = True
            self._end_all()

    def _serve(self, watched: _Watched, events: int) -> None:
        if events & selectors.EVENT_WRITE and watched.line is not None and not watched.line.send_rest():
            self._selector.modify(watched.socket, selectors.EVENT_READ, watched)
        if events & selectors.EVENT_READ and not _has_more(watched):
            self._selector.unregister(watched.socket)
            _end(watched)

    def _take_news(self) -> None:
        with self._lock:
            new, self._new = self._new, []
            unsent, self._unsent = self._unsent, []
        for watched in [*new, *self._rested()]:
            try:
                self._selector.register(watched.socket, selectors.EVENT_READ, watched)
            except (OSError, ValueError, KeyError):  # the system watches no more than so many
                _end(watched)
        if unsent:
            self._send_rest(unsent)

    def _send_rest(self, unsent: list[Line]) -> None:
        lines = {key.data.line: key for key in self._selector.get_map().values() if key.data is not None}
        for line in unsent:
            if line in lines:
                both = selectors.EVENT_READ | selectors.EVENT_WRITE
                self._selector.modify(line.socket, both, lines[line].data)

    def _rest_s(self) -> float | None:
        """Until the next socket has rested; None where none does."""
        if not self._resting:
            return None
        return max(0.0, min(until_s for until_s, _ in self._resting) - time.monotonic())

    def _rested(self) -> list[_Watched]:
        now_s = time.monotonic()
        rested = [watched for until_s, watched in self._resting if until_s <= now_s]
        if rested:
            self._resting = [each for each in self._resting if each[0] > now_s]
        return rested

    def _end_all(self) -> None:
        with self._lock:
            new, self._new = self._new, []
        watched_now = [key.data for key in self._selector.get_map().values() if key.data is not None]
        for watched in [*new, *watched_now, *(watched for _, watched in self._resting)]:
            _end(watched)
        self._selector.close()
        self._woken.close()
        self._wake_up.close()


def _has_more(watched: _Watched) -> bool:
    try:
        return watched.arrive()
    except Exception as error:  # whatever it is, the other lines are read on
        _log.error("reading a line failed: %s: %s", type(error).__name__, error)
        return False


def _end(watched: _Watched) -> None:
    if watched.line is not None:
        watched.line.close()  # before the socket: nobody sends into one that has its number next
    watched.socket.close()
    try:
        watched.end()
    except Exception as error:  # likewise
        _log.error("the end of a line failed: %s: %s", type(error).__name__, error)
