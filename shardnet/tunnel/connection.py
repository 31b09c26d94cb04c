"""One connection between two gates: frames in, bytes out. Does not know what they mean."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import struct
from collections.abc import Collection
from contextlib import suppress
from typing import Protocol

from shardnet.tunnel.frames import BadFrame, Frame, FrameReader

TCP_NOTSENT_LOWAT = 25
"""From linux/tcp.h: `socket` does not have it."""
UNSENT_BYTES = 2**16
"""What waits in the kernel for its turn on the network. What comes later, and is more urgent, waits behind it."""

_FORGET = struct.pack("ii", 1, 0)
CLOSE_S = 2.0
"""How long what was written last may take to go out."""


class Owner(Protocol):
    """Whoever a connection belongs to at the moment."""

    def frames_came(self, connection: Connection, frames: list[Frame]) -> None: ...

    def can_write(self, connection: Connection) -> None: ...

    def connection_broke(self, connection: Connection, error: Exception | None) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """Takes over a transport, with TLS or without. It is not read from until it has an owner."""

    def __init__(self, until_s: float = math.inf) -> None:
        self.until_s = until_s
        """When what the other end has shown of itself counts no more, in seconds since 1970: see `Peer`."""
        self._transport: asyncio.Transport | None = None
        self._owner: Owner | None = None
        self._reader = FrameReader()
        self.is_writable = False
        """Whether what is written now goes out now."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=1, low=0)
        if self._owner is None:
            transport.pause_reading()
        self.is_writable = True
        socket_ = transport.get_extra_info("socket")
        if socket_ is not None and socket_.family in (socket.AF_INET, socket.AF_INET6):
            socket_.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            socket_.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    def belong_to(self, owner: Owner) -> None:
        """What comes, and what becomes of the connection, is told to this one from now on."""
        is_first = self._owner is None
        self._owner = owner
        if is_first and self._transport is not None:
            self._transport.resume_reading()

    @property
    def is_carried(self) -> bool:
        """Whether it is a stream of another link session."""
        return self._transport is not None and self._transport.get_extra_info("sockname") is None

    def is_from(self, addresses: Collection[str]) -> bool:
        """Whether its end here is at one of these, or no network is under it that could be another one now."""
        here = None if self._transport is None else self._transport.get_extra_info("sockname")
        if not isinstance(here, tuple):
            return True
        host = str(here[0]).partition("%")[0]
        return host in addresses or ipaddress.ip_address(host).is_loopback

    def write(self, data: bytes) -> None:
        """Send it after all that was written before; nothing does on a connection that is breaking."""
        if self._transport is None or self._transport.is_closing():
            self.is_writable = False
        else:
            self._transport.write(data)

    def close(self) -> None:
        """End it when all that was written has gone out. Its owner hears no more of it."""
        self._owner = _nobody
        if self._transport is not None:
            self._transport.close()
            asyncio.get_running_loop().call_later(CLOSE_S, self.abort)

    def abort(self) -> None:
        """End it at once. Its owner hears no more of it."""
        self._owner = _nobody
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def forget(self) -> None:
        """The same where nothing seems to get through: nothing is left to the kernel that would go on sending."""
        socket_ = None if self._transport is None else self._transport.get_extra_info("socket")
        if socket_ is not None:
            with suppress(OSError):
                socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FORGET)
        self.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.room()

    def buffer_updated(self, nbytes: int) -> None:
        assert self._owner is not None
        try:
            frames = self._reader.filled(nbytes)
            if frames:
                self._owner.frames_came(self, frames)
        except BadFrame as error:
            owner = self._owner
            self.abort()
            owner.connection_broke(self, error)

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        self.is_writable = True
        if self._owner is not None:
            self._owner.can_write(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.is_writable = False
        if self._owner is not None:
            self._owner.connection_broke(self, exc)


class _Nobody:
    """The owner of a connection that was ended on purpose."""

    def frames_came(self, connection: Connection, frames: list[Frame]) -> None: ...

    def can_write(self, connection: Connection) -> None: ...

    def connection_broke(self, connection: Connection, error: Exception | None) -> None: ...


_nobody = _Nobody()
