"""Who asks the server of the wheel for something else than it gives gets nothing, and stops nobody."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest

from shardnet.launch.termux import serving
from shardnet.launch.termux.serving import MOST_AT_ONCE, FileDesk

CONTENT = bytes(range(256)) * 4000
Talk = Callable[[int, list[str]], Awaitable[None]]


def served(talk: Talk) -> None:
    """Serve while somebody talks with it."""

    async def run() -> None:
        said: list[str] = []
        listener = socket.create_server(("127.0.0.1", 0))
        [server] = await FileDesk({"a.whl": CONTENT}, said.append).serve([listener])
        async with server:
            await asyncio.wait_for(talk(listener.getsockname()[1], said), 60)

    asyncio.run(run())


def anybody(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    return context


async def ask(port: int, question: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=anybody())
    writer.write(question)
    try:
        return await reader.read()
    except OSError:
        return b""
    finally:
        writer.transport.abort()


def test_what_there_is_and_nothing_else() -> None:
    async def talk(port: int, said: list[str]) -> None:
        answer = await ask(port, b"GET /a.whl HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\n" + CONTENT)
        for question in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET /../a.whl HTTP/1.1\r\n\r\n",
            b"GET /etc/passwd HTTP/1.1\r\n\r\n",
            b"GET /%61.whl HTTP/1.1\r\n\r\n",
            b"POST /a.whl HTTP/1.1\r\n\r\n",
            b"\r\n\r\n",
        ):
            assert (await ask(port, question)).startswith(b"HTTP/1.1 404 Not Found\r\n"), question
        assert await ask(port, b"GET /a.whl HTTP/1.1\r\n" + b"x" * 100_000) == b""
        assert said == ["127.0.0.1 has fetched a.whl."]

    served(talk)


def test_only_through_tls_13() -> None:
    async def talk(port: int, said: list[str]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /a.whl HTTP/1.1\r\n\r\n")
        assert CONTENT[:100] not in await reader.read()
        writer.close()
        with pytest.raises((ssl.SSLError, OSError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=anybody(ssl.TLSVersion.TLSv1_2))
        assert said == []

    served(talk)


def test_those_who_say_nothing_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "ASK_S", 1.0)

    async def talk(port: int, said: list[str]) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port, ssl=anybody()) for _ in range(MOST_AT_ONCE + 4)]
        for reader, _ in idle:
            assert await reader.read() == b""
        assert CONTENT in await ask(port, b"GET /a.whl HTTP/1.1\r\n\r\n")
        for _, writer in idle:
            writer.close()

    served(talk)
