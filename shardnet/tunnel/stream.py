"""One end of a stream: a transport as asyncio has them, whose bytes go through a link session."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from shardnet.tunnel.flow import Incoming, Outgoing
from shardnet.tunnel.frames import BadFrame

T = TypeVar("T")
MOST_HANDED_BYTES = 2**17
MOST_WAITING_BYTES = 2**16
"""Of data that was written and has not gone out. Where it is more, the writer is asked to pause."""


class Carrier(Protocol):
    """What a link session does for its streams."""

    peer: str

    def wake(self, stream: Stream) -> None: ...

    def give_credit(self, stream: Stream, num_bytes: int) -> None: ...

    def reset(self, stream: Stream) -> None: ...

    def drop(self, stream: Stream) -> None: ...


class Stream(asyncio.Transport):
    """Made by link sessions. It is read from as soon as it has a protocol (`begin`)."""

    def __init__(
        self, carrier: Carrier, number: int, destination: bytes, outgoing: Outgoing, incoming: Incoming
    ) -> None:
        super().__init__({"peername": carrier.peer})
        self.destination = destination
        self.number = number
        self.outgoing = outgoing
        self._carrier = carrier
        self._incoming = incoming
        self._loop = asyncio.get_running_loop()
        self._protocol: asyncio.Protocol | None = None
        self._unread: deque[bytes] = deque()
        self._is_reading = False
        self._is_pausing_writer = False
        self._has_end_come = False
        self._is_end_read = False
        self._is_end_sent = False
        self._is_closing = False
        self.is_over = False

    def begin(self, protocol: asyncio.Protocol) -> None:
        """Whoever reads and writes it from now on. Where it is over by now, the protocol hears that, too."""
        was_over = self.is_over
        self._protocol = protocol
        protocol.connection_made(self)
        if was_over:
            self._loop.call_soon(protocol.connection_lost, ConnectionResetError("the stream is over"))
        self.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        return self._is_closing or self.is_over

    def is_reading(self) -> bool:
        return self._is_reading

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = not self.is_closing()
        self.hand_out()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send it, in the stream's turn. What is written after the end is lost."""
        if self.outgoing.is_ended or self.is_over:
            return
        self.outgoing.add(bytes(data))
        self._carrier.wake(self)
        if self.outgoing.num_bytes > MOST_WAITING_BYTES and not self._is_pausing_writer and self._protocol:
            self._is_pausing_writer = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """End this direction behind all that was written; the other one goes on."""
        if not self.outgoing.is_ended and not self.is_over:
            self.outgoing.is_ended = True
            self._carrier.wake(self)

    def close(self) -> None:
        """End this direction, and read no more: whatever comes resets the stream."""
        if self.is_closing():
            return
        self._is_closing = True
        self._is_reading = False
        self.write_eof()
        if self._unread:
            self.abort()
        else:
            self._end_if_done()

    def abort(self) -> None:
        """Reset the stream: neither end hears anything of it any more."""
        self._force_close(None)

    def _force_close(self, exc: Exception | None) -> None:
        """The same, where the protocol is to hear why. So called by asyncio's TLS, which takes None for a success."""
        if not self.is_over:
            self._carrier.reset(self)
            self.finish(exc)

    def get_write_buffer_size(self) -> int:
        return self.outgoing.num_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return MOST_WAITING_BYTES // 4, MOST_WAITING_BYTES

    @property
    def is_end_due(self) -> bool:
        """Whether nothing is left to be said but the end."""
        return self.outgoing.is_ended and not self.outgoing.num_bytes and not self._is_end_sent

    def went_out(self) -> None:
        """Some of what was written was taken."""
        if self._is_pausing_writer and self.outgoing.num_bytes <= MOST_WAITING_BYTES // 4 and self._protocol:
            self._is_pausing_writer = False
            self._protocol.resume_writing()

    def end_went_out(self) -> None:
        """The end was taken, too."""
        self._is_end_sent = True
        self._end_if_done()

    def data_came(self, data: bytes) -> None:
        """From the other end. `hand_out` is called when no more comes for the moment.

        Raises:
            BadFrame: it had no credit for so much, or had ended.
        """
        if self._has_end_come:
            raise BadFrame("a stream sent data after its end")
        self._incoming.arrive(len(data))
        if self._is_closing:
            self.abort()
        else:
            self._unread.append(data)

    def end_came(self) -> None:
        """From the other end: nothing follows."""
        self._has_end_come = True
        if self._is_closing:
            self._is_end_read = True
            self._end_if_done()
        else:
            self.hand_out()

    def finish(self, error: Exception | None) -> None:
        """The stream is over; its protocol hears so."""
        self.is_over = True
        self._is_reading = False
        self.outgoing.clear()
        self._incoming.end()
        self._unread.clear()
        self._carrier.drop(self)
        if self._protocol:
            self._loop.call_soon(self._protocol.connection_lost, error)

    def hand_out(self) -> None:
        """What has come goes to the protocol, in few large pieces, as long as that reads."""
        while self._is_reading and self._unread:
            num_bytes = 0
            pieces = []
            while self._unread and num_bytes < MOST_HANDED_BYTES:
                pieces.append(self._unread.popleft())
                num_bytes += len(pieces[-1])
            self._hand(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._is_reading and self._has_end_come and not self._is_end_read and self._protocol:
            self._is_end_read = True
            if not self._call(self._protocol.eof_received):
                self.close()
            self._end_if_done()

    def _hand(self, data: bytes) -> None:
        assert self._protocol is not None
        if isinstance(self._protocol, asyncio.BufferedProtocol):
            self._call(partial(_fill, self._protocol), data)
        else:
            self._call(self._protocol.data_received, data)
        credit_bytes = 0 if self.is_over or self._has_end_come else self._incoming.read(len(data))
        if credit_bytes:
            self._carrier.give_credit(self, credit_bytes)

    def _call(self, method: Callable[..., T], *args: object) -> T | None:
        """A method of the protocol. What it raises ends the stream, and no other one."""
        try:
            return method(*args)
        except Exception as error:
            said = {"message": "a protocol failed", "exception": error, "transport": self, "protocol": self._protocol}
            self._loop.call_exception_handler(said)
            self.abort()
            return None

    def _end_if_done(self) -> None:
        if self._is_end_sent and self._is_end_read and not self.is_over:
            self.finish(None)


def _fill(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    """As asyncio's own transports do for protocols that have buffers, such as TLS."""
    left = memoryview(data)
    while left:
        buffer = memoryview(protocol.get_buffer(len(left)))
        num_bytes = min(len(buffer), len(left))
        buffer[:num_bytes] = left[:num_bytes]
        protocol.buffer_updated(num_bytes)
        left = left[num_bytes:]
