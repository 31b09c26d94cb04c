"""Clients that want a server to have no time for others. See `bench_server.py`."""

from __future__ import annotations

import asyncio
import json
import resource
from contextlib import suppress
from urllib.parse import urlsplit

NUM_CONNECTIONS = 10_000
AT_ONCE = 500
NUM_SLOW = 50
HUGE_BYTES = 10**9


class Hostile:
    """They go on until they are ended."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._host, self._port = place.hostname or "", place.port or 80
        self._tasks: list[asyncio.Task[None]] = []
        self._idle: list[asyncio.StreamWriter] = []

    async def begin(self) -> int:
        """Returns how many connections that say nothing could be opened."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        for _ in range(0, NUM_CONNECTIONS, AT_ONCE):
            opened = await asyncio.gather(*(self._connect() for _ in range(AT_ONCE)), return_exceptions=True)
            self._idle += [each[1] for each in opened if not isinstance(each, BaseException)]
        kinds = (self._half_a_request, self._reads_nothing)
        self._tasks = [asyncio.ensure_future(kind()) for kind in kinds for _ in range(NUM_SLOW)]
        self._tasks += [asyncio.ensure_future(self._huge_body(head)) for head in _HEADS]
        return len(self._idle)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._idle:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port)

    async def _half_a_request(self) -> None:
        """A byte of it now and then, again and again."""
        while True:
            with suppress(OSError):
                _, writer = await self._connect()
                for byte in _head("Content-Length: 100"):
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.5)
            await asyncio.sleep(0.5)

    async def _reads_nothing(self) -> None:
        """Asks for what goes on, and costs the ring nothing: who asks for tokens has a share of it in any case."""
        with suppress(OSError):
            _, writer = await self._connect()
            writer.write(b"GET /cluster/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(3600)
            writer.close()

    async def _huge_body(self, head: str) -> None:
        """1 GB of it, again and again."""
        part = json.dumps("x" * 2**16).encode()
        chunk = part if "Length" in head else f"{len(part):x}\r\n".encode() + part + b"\r\n"
        while True:
            with suppress(OSError):
                _, writer = await self._connect()
                writer.write(_head(head))
                for _ in range(HUGE_BYTES // len(part)):
                    writer.write(chunk)
                    await writer.drain()
                writer.close()
            await asyncio.sleep(0.2)


_HEADS = (f"Content-Length: {HUGE_BYTES}", "Transfer-Encoding: chunked")
"""Of a body whose length is said, and of one that does not say it."""


def _head(length: str) -> bytes:
    return f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode()
