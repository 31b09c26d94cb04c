"""The coordinator's gate calls others, and is not kept by who answers too much."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

from processes import wait_until
from two_hosts import Hosts

from shardnet.gate.listening import addresses_of, listen
from shardnet.trust.contexts import server_context


def test_who_is_called_has_nothing_to_say(tmp_path: Path) -> None:
    """All that it said was kept for as long as the call might last."""
    with ExitStack() as ends:
        hosts = Hosts(tmp_path, ends)
        phone = hosts.join("phone")
        wait_until(lambda: "linked" in phone.said)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"and it goes on")
            await reader.read()
            writer.transport.abort()

        async def call() -> None:
            (listener,) = listen(["127.0.0.1:0"])
            (address,) = addresses_of([listener])
            server = await asyncio.start_server(answer, sock=listener, ssl=server_context(phone.identity))
            await asyncio.wait_for(hosts.caller._say("phone", address), 15)
            server.close()

        hosts.on_loop(call)
