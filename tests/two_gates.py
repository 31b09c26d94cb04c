"""Two gates on one event loop, and between them a way that can be cut and held."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from shardnet.tunnel.connection import Connection
from shardnet.tunnel.limits import Limits
from shardnet.tunnel.meeting import Meeting
from shardnet.tunnel.session import LinkSession
from shardnet.tunnel.stream import Stream

T = TypeVar("T")
HASTY = Limits(ask_after_s=0.1, answer_s=0.2, limit_s=20.0)
"""A blackout is noticed after 0.3 s."""
NARROW_BYTES = 2**15


def run(main: Awaitable[T]) -> T:
    """The test, on an event loop of its own."""

    async def limited() -> T:
        return await asyncio.wait_for(main, 100)

    return asyncio.run(limited())


class Way:
    """What connects two gates: connections to `port` go on to the far gate."""

    def __init__(self) -> None:
        self.port = 0
        self.target = 0
        self.passed_bytes = 0
        """In both directions."""
        self.cut_at_bytes: list[int] = []
        """All connections are cut when so many have passed; sorted."""
        self.num_cuts = 0
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def cut(self) -> None:
        """All connections that there are break."""
        self.num_cuts += 1
        for writer in tuple(self._writers):
            writer.transport.abort()

    def hold(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self._open.clear()

    def hold_those_there(self) -> None:
        """The same for the connections that there are; those that are new from now on pass."""
        self._open.clear()
        self._open = asyncio.Event()
        self._open.set()

    def release(self) -> None:
        """Connections that are new from now on pass, and what was held is lost."""
        self.cut()
        self._open.set()

    def resume(self) -> None:
        """What was held goes on."""
        self._open.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target, limit=NARROW_BYTES)
        self._writers |= {writer, back}
        may_pass = self._open
        ways = self._pass_on(reader, back, may_pass), self._pass_on(there, writer, may_pass)
        await asyncio.gather(*ways, return_exceptions=True)
        self._writers -= {writer, back}
        for each in (writer, back):
            each.transport.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, may_pass: asyncio.Event
    ) -> None:
        while data := await reader.read(NARROW_BYTES):
            await may_pass.wait()
            while self.cut_at_bytes and self.passed_bytes + len(data) >= self.cut_at_bytes[0]:
                data = data[: self.cut_at_bytes[0] - self.passed_bytes]
                self.cut_at_bytes.pop(0)
                self.passed_bytes += len(data)
                writer.write(data)
                self.cut()
                return
            self.passed_bytes += len(data)
            writer.write(data)
            await writer.drain()
        writer.transport.abort()


class Tls(NamedTuple):
    """How gates speak it."""

    far: ssl.SSLContext
    near: ssl.SSLContext
    far_name: str


class Gates:
    """Both, and what they have heard of each other."""

    def __init__(self, limits: Limits, on_stream: Callable[[Stream], None], tls: Tls | None = None) -> None:
        self._tls = tls
        self.way = Way()
        self.accepted: list[LinkSession] = []
        self.far = Meeting(self.accepted.append, lambda session, stream: on_stream(stream), limits)
        self.near = Meeting(lambda session: None, lambda session, stream: on_stream(stream), limits)
        self.peer = "near"
        """As whom the far gate knows whoever dials."""
        self.until_s = math.inf
        """How long it believes that."""

    async def connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        port = self.way.port
        if self._tls is None:
            return (await loop.create_connection(Connection, "127.0.0.1", port))[1]
        _, near, name = self._tls
        made = loop.create_connection(Connection, "127.0.0.1", port, ssl=near, server_hostname=name)
        return (await made)[1]

    async def dial(self) -> LinkSession:
        return await self.near.dial(self.connect, "far")


class _Arriving(asyncio.Protocol):
    def __init__(self, gates: Gates) -> None:
        self._gates = gates

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._gates.far.accept(transport, self._gates.peer, self._gates.until_s)


@asynccontextmanager
async def two_gates(
    limits: Limits = HASTY, on_stream: Callable[[Stream], None] = lambda stream: None, tls: Tls | None = None
) -> AsyncIterator[Gates]:
    """Listening and able to dial."""
    gates = Gates(limits, on_stream, tls)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: _Arriving(gates), "127.0.0.1", 0, ssl=tls.far if tls else None)
    gates.way.target = listener.sockets[0].getsockname()[1]
    way = await asyncio.start_server(gates.way.serve, "127.0.0.1", 0, limit=NARROW_BYTES)
    gates.way.port = way.sockets[0].getsockname()[1]
    try:
        yield gates
    finally:
        gates.near.end("the test is over")
        gates.far.end("the test is over")
        listener.close()
        way.close()
        gates.way.resume()
        gates.way.cut()
