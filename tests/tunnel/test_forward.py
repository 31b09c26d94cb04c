"""Sockets of two hosts, joined by a stream: each end sees what it would of one connection."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from two_gates import HASTY, Gates, run, two_gates

from shardnet.errors import ClusterError
from shardnet.tunnel import forward
from shardnet.tunnel.session import LinkSession
from shardnet.tunnel.stream import Stream


class Conversation(NamedTuple):
    """A client here, the server that it reached there, and what is between them."""

    client: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    server: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    gates: Gates
    session: LinkSession


@asynccontextmanager
async def through_gates(has_server: bool = True) -> AsyncIterator[tuple[Gates, LinkSession, int, asyncio.Queue]]:
    """The port here, whose connections come out as items of the queue."""
    loop = asyncio.get_running_loop()
    came: asyncio.Queue = asyncio.Queue()
    tasks = set()

    def on_stream(stream: Stream) -> None:
        assert stream.destination == b"member 7"
        carrying = forward.carry(stream, lambda made: loop.create_connection(made, "127.0.0.1", there))
        tasks.add(asyncio.ensure_future(carrying))

    server = await asyncio.start_server(lambda *ends: came.put_nowait(ends), "127.0.0.1", 0)
    there = server.sockets[0].getsockname()[1]
    if not has_server:
        server.close()
    async with two_gates(HASTY, on_stream) as gates:
        session = await gates.dial()
        entrance = await loop.create_server(forward.entrance(lambda: session, b"member 7"), "127.0.0.1", 0)
        yield gates, session, entrance.sockets[0].getsockname()[1], came
        entrance.close()
        server.close()
        await asyncio.gather(*tasks)


@asynccontextmanager
async def conversation() -> AsyncIterator[Conversation]:
    async with through_gates() as (gates, session, port, came):
        client = await asyncio.open_connection("127.0.0.1", port)
        server = await came.get()
        try:
            yield Conversation(client, server, gates, session)
        finally:
            client[1].close()
            server[1].close()


def reset(writer: asyncio.StreamWriter) -> None:
    """As the kernel does when a process that has unread data dies."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def test_bytes_and_ends_go_on_as_they_come() -> None:
    async def main() -> None:
        async with conversation() as talk:
            question, answer = random.Random(1).randbytes(3_000_000), random.Random(2).randbytes(4_000_000)
            talk.client[1].write(question)
            talk.client[1].write_eof()
            assert await talk.server[0].read() == question
            talk.server[1].write(answer)
            talk.server[1].close()
            assert await talk.client[0].read() == answer
            while talk.session.num_streams:
                await asyncio.sleep(0.001)

    run(main())


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_connection_that_is_reset_is_reset_at_the_other_end(who: str) -> None:
    async def main() -> None:
        async with conversation() as talk:
            ends = [talk.client, talk.server]
            if who == "server":
                ends.reverse()
            ends[0][1].write(b"x")
            await ends[1][0].readexactly(1)
            reset(ends[0][1])
            with pytest.raises(ConnectionResetError):
                await ends[1][0].read()
            assert talk.session.num_streams == talk.gates.accepted[0].num_streams == 0

    run(main())


def test_who_is_gone_when_an_end_comes_harms_nobody_else() -> None:
    """It once broke the connection between the gates, with all that others had in it."""

    async def main() -> None:
        async with through_gates() as (gates, session, port, came):
            _, client = await asyncio.open_connection("127.0.0.1", port)
            reader, server = await came.get()
            client.close()
            assert await reader.read() == b""
            server.write(b"to nobody")
            server.close()
            while session.num_streams or gates.accepted[0].num_streams:
                await asyncio.sleep(0.001)
            assert session.counts.num_connections == 1

    run(main())


def test_who_writes_to_somebody_who_has_closed_is_told() -> None:
    async def main() -> None:
        async with conversation() as talk:
            talk.server[1].close()
            assert await talk.client[0].read() == b""
            with pytest.raises(ConnectionError):
                while True:
                    talk.client[1].write(b"x" * 1000)
                    await talk.client[1].drain()
                    await asyncio.sleep(0.001)

    run(main())


def test_what_the_other_host_refuses_is_reset_here() -> None:
    async def main() -> None:
        async with through_gates(has_server=False) as (_, _, port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()

    run(main())


def test_without_a_link_session_connections_are_reset() -> None:
    def none() -> LinkSession:
        raise ClusterError("no way there")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(forward.entrance(none, b"x"), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        server.close()

    run(main())


def test_a_link_session_that_is_over_resets_its_connections() -> None:
    async def main() -> None:
        async with conversation() as talk:
            talk.session.end("leaving")
            for reader, _ in (talk.client, talk.server):
                with pytest.raises(ConnectionResetError):
                    await reader.read()

    run(main())


def test_a_client_that_does_not_read_stops_the_server() -> None:
    async def main() -> None:
        async with conversation() as talk:
            answer = random.Random(3).randbytes(30_000_000)
            talk.server[1].write(answer)
            draining = asyncio.ensure_future(talk.server[1].drain())
            before = -1
            while before != talk.session.counts.received_bytes:
                before = talk.session.counts.received_bytes
                await asyncio.sleep(0.1)
            assert before < len(answer)
            assert await talk.client[0].readexactly(len(answer)) == answer
            await draining

    run(main())
