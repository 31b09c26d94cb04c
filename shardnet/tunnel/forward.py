"""Between sockets of this host and streams: bytes, ends and resets go on as they come."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from shardnet.errors import ClusterError
from shardnet.tunnel.session import LinkSession
from shardnet.tunnel.stream import Stream

ConnectHere = Callable[[Callable[[], asyncio.Protocol]], Awaitable[Any]]
"""Connects a protocol to a socket of this host, as `loop.create_unix_connection` does; OSError where it cannot."""
SessionNow = Callable[[], LinkSession]
"""Which link session a connection goes through that comes now; ClusterError where there is none."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Pump(asyncio.Protocol):
    """Hands on what comes to the transport of the pump at the other side, and the other way round."""

    def __init__(self, other: Pump | None = None) -> None:
        self.other: Pump = other or Pump(self)
        self.transport: asyncio.Transport | None = None
        self.has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        socket_ = transport.get_extra_info("socket")
        if socket_ is not None and socket_.family in (socket.AF_INET, socket.AF_INET6):
            socket_.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        self.has_ended = True
        if self.other.transport is not None:
            with suppress(OSError):  # it was reset, and will say so
                self.other.transport.write_eof()
            if self.other.has_ended:
                self._close()
                self.other._close()
        return True

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if not (self.has_ended and self.other.has_ended):
            self.other.reset()

    def reset(self) -> None:
        """End it so that who is at the other end of the transport sees that it was not meant to end there."""
        if self.transport is None:
            return
        socket_ = self.transport.get_extra_info("socket")
        if socket_ is not None:
            socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class _Entrance(Pump):
    """A connection of somebody of this host, which becomes a stream."""

    def __init__(self, session_now: SessionNow, destination: bytes) -> None:
        super().__init__()
        self._session_now = session_now
        self._destination = destination

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        try:
            self._session_now().open_stream(lambda: self.other, self._destination)
        except ClusterError:
            self.reset()


class _Exit(Pump):
    """A connection to somebody of this host, which a stream asked for."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._stream.is_over:
            self.reset()
        else:
            self._stream.begin(self.other)


def entrance(session_now: SessionNow, destination: bytes) -> Callable[[], asyncio.Protocol]:
    """What to serve on a socket of this host (`loop.create_server`), so that its connections become streams."""
    return lambda: _Entrance(session_now, destination)


async def carry(stream: Stream, connect_here: ConnectHere) -> None:
    """Connect a stream that the other gate has opened to a socket of this host, or reset it where that is refused."""
    try:
        await connect_here(lambda: _Exit(stream))
    except OSError:
        stream.abort()
    except BaseException:
        stream.abort()
        raise


def open_reader_writer(
    session: LinkSession, destination: bytes, most_bytes: int = 2**16
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream as asyncio's own readers and writers have it.

    Args:
        most_bytes: of a line.

    Raises:
        ClusterError: see `LinkSession.open_stream`.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=most_bytes, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    stream, _ = session.open_stream(lambda: protocol, destination)
    return reader, asyncio.StreamWriter(stream, protocol, reader, loop)
