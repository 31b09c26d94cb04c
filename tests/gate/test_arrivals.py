"""Connections at the port of a gate, until somebody else has them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from trusted import Home

from shardnet.gate.arrivals import Arrivals
from shardnet.gate.listening import addresses_of, listen
from shardnet.trust.contexts import client_context, server_context, server_mark
from shardnet.trust.names import COORDINATOR
from shardnet.trust.peers import Peer


class Echo(asyncio.Protocol):
    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


def test_who_was_let_in_makes_no_room_for_others(tmp_path: Path) -> None:
    """Strangers that came in the same moment once closed the connection of the member that was just let in."""
    home = Home(tmp_path / "home")
    phone = home.member(tmp_path / "phone", "phone")

    async def run() -> None:
        said: list[str] = []
        listeners = listen(["127.0.0.1:0"])
        (address,) = addresses_of(listeners)

        def let_in(transport: asyncio.Transport, peer: Peer) -> None:
            Echo(transport)
            for makes_room in arrivals._shaking:
                makes_room.cancel()

        context = server_context(home.identity)
        arrivals = Arrivals(listeners, lambda: context, home.admission.counts, let_in, lambda *_: None, said.append)
        mark = server_mark(phone, COORDINATOR)
        reader, writer = await asyncio.open_connection(*address, ssl=client_context(phone), server_hostname=mark)
        for _ in range(3):
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
        writer.transport.abort()
        arrivals.close()
        assert said == []

    asyncio.run(asyncio.wait_for(run(), 60))
