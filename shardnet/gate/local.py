"""Connections of a gate to what listens on its own host."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from shardnet.errors import ClusterError
from shardnet.transport.door.listening import short_path
from shardnet.tunnel.forward import Pump
from shardnet.tunnel.session import LinkSession

MakeProtocol = Callable[[], asyncio.Protocol]


async def reach(host: str, port: int, make_protocol: MakeProtocol) -> Any:
    """Connect to the agent of a member of this host.

    Raises:
        OSError: it is gone.
    """
    return await asyncio.get_running_loop().create_connection(make_protocol, host, port)


class LateEntrance(Pump):
    """A connection of somebody of this host, which becomes a stream when there is a link for it."""

    def __init__(self, find_session: Callable[[], Awaitable[LinkSession]], destination: bytes) -> None:
        super().__init__()
        self._find_session = find_session
        self._destination = destination
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        # A moment later: to Pythons such as 3.11.2 it says nothing here, as they begin to read after this call.
        asyncio.get_running_loop().call_soon(self.transport.pause_reading)
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        try:
            session = await self._find_session()
            if self.transport is not None:  # or it went away meanwhile
                session.open_stream(lambda: self.other, self._destination)
                self.transport.resume_reading()
        except ClusterError:
            self.reset()


async def connect_there(path: Path, preface: bytes, make_protocol: MakeProtocol) -> Any:
    """Connect to a Unix socket of this user, and say something first.

    Raises:
        OSError: nobody listens there.
    """
    loop = asyncio.get_running_loop()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        with short_path(path) as name:
            await loop.sock_connect(connection, name)
        await loop.sock_sendall(connection, preface)
        return await loop.create_unix_connection(make_protocol, sock=connection)
    except BaseException:
        connection.close()
        raise
