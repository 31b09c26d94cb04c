"""TLS within a stream: what becomes of a handshake whose other end says nothing, or is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from trusted import Home
from two_gates import run, two_gates

from shardnet.trust.contexts import client_context, server_context, server_mark
from shardnet.trust.names import COORDINATOR
from shardnet.tunnel.nested_tls import answer_over, dial_over
from shardnet.tunnel.stream import Stream

SOON_S = 0.2


def mute(stream: Stream) -> None:
    stream.begin(asyncio.Protocol())


def test_who_dials_somebody_that_says_nothing_is_told_so(tmp_path: Path) -> None:
    """It once was no OSError, and whoever had wanted to reach that host was left waiting for ever."""
    phone = Home(tmp_path / "home").member(tmp_path / "phone", "phone")

    async def main() -> None:
        async with two_gates(on_stream=mute) as gates:
            session = await gates.dial()
            mark = server_mark(phone, COORDINATOR)
            with pytest.raises(OSError, match="handshake"):
                await dial_over(session, b"gate", asyncio.Protocol(), client_context(phone), mark, SOON_S)
            assert session.num_streams == 0

    run(main())


def test_who_answers_somebody_that_says_nothing_is_told_so(tmp_path: Path) -> None:
    context = server_context(Home(tmp_path / "home").identity)

    async def main() -> None:
        answering: list[asyncio.Future[None]] = []

        def answer(stream: Stream) -> None:
            answering.append(asyncio.ensure_future(answer_over(stream, asyncio.Protocol(), context, SOON_S)))

        async with two_gates(on_stream=answer) as gates:
            (await gates.dial()).open_stream(asyncio.Protocol, b"gate")
            while not answering:
                await asyncio.sleep(0.001)
            with pytest.raises(OSError, match="handshake"):
                await answering[0]

    run(main())


def test_who_answers_somebody_that_is_gone_by_then_does_not_wait_for_ever(tmp_path: Path) -> None:
    context = server_context(Home(tmp_path / "home").identity)

    async def main() -> None:
        streams: asyncio.Queue[Stream] = asyncio.Queue()
        async with two_gates(on_stream=streams.put_nowait) as gates:
            opened, _ = (await gates.dial()).open_stream(asyncio.Protocol, b"gate")
            stream = await streams.get()
            opened.abort()
            while not stream.is_over:
                await asyncio.sleep(0.001)
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(answer_over(stream, asyncio.Protocol(), context, SOON_S), 60)

    run(main())
