"""A host that asks to be taken in, at one address after the other: strangers there do not keep it, and hear nothing."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from strangers import AT_ANY_PACE
from trusted import Home

from shardnet.errors import JoinFailed
from shardnet.gate import asking
from shardnet.gate.arrivals import Arrivals
from shardnet.gate.asking import enrol
from shardnet.gate.listening import addresses_of, listen
from shardnet.gate.newcomers import Newcomers
from shardnet.trust.addresses import Address
from shardnet.trust.answering import Desk
from shardnet.trust.contexts import server_context
from shardnet.trust.identity import Identity
from shardnet.trust.invitations import Invitations
from shardnet.trust.keys import fingerprint_of
from shardnet.trust.payload import Payload

TRICKLE_S = 0.02


class Gate:
    """Of a cluster of its own that invites."""

    def __init__(self, folder: Path) -> None:
        self._home = home = Home(folder)
        self.said: list[str] = []
        self.invitations = Invitations()
        self.invited = self.invitations.invite(time.time())
        listeners = listen(["127.0.0.1:0"])
        (self.address,) = addresses_of(listeners)
        self.payload = Payload(home.admission.authority.fingerprint, self.invited.token, (self.address,))
        context = server_context(home.identity)
        key = fingerprint_of(home.identity.key.public_key())
        desk = Desk(home.admission, self.invitations, key, lambda: [self.address])
        newcomers = Newcomers(desk, lambda name: None, self.said.append)
        self._arrivals = Arrivals(
            *(listeners, lambda: context, home.admission.counts, lambda *_: None, newcomers.take, self.said.append),
            paces=AT_ANY_PACE,
        )

    def close(self) -> None:
        self._arrivals.close()
        self._home.state.close()


@asynccontextmanager
async def trickling(folder: Path) -> AsyncIterator[Address]:
    """A server that says something all the time, and never comes to an end."""
    context: ssl.SSLContext = server_context(Home(folder).identity)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            for part in (b"\x10\x00", *[b"\x00"] * 2**11):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(TRICKLE_S)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield Address(*server.sockets[0].getsockname())
    server.close()


def joining(work: Callable[[Callable[..., asyncio.Future[Identity]]], object]) -> None:
    """Work that joins on a thread, while gates serve on the event loop."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        await work(lambda *args: loop.run_in_executor(None, partial(enrol, *args)))  # type: ignore[misc]

    asyncio.run(asyncio.wait_for(run(), 60))


def test_another_cluster_at_the_first_address_does_not_end_a_join(tmp_path: Path) -> None:
    async def work(join: Callable[..., asyncio.Future[Identity]]) -> None:
        other, gate = Gate(tmp_path / "other"), Gate(tmp_path / "home")
        identity = await join(tmp_path / "phone", gate.payload, "phone", [other.address, gate.address])
        assert identity.name == "phone" and gate.said == ["127.0.0.1: phone has joined"]
        while not other.said:
            await asyncio.sleep(0.001)
        assert other.said == ["127.0.0.1: came, and said nothing"], "it was not told the token"
        with pytest.raises(JoinFailed, match="is not the cluster of this invitation"):
            await join(tmp_path / "tablet", gate.payload, "tablet", [other.address])
        for each in (other, gate):
            each.close()

    joining(work)


def test_a_code_is_tried_at_one_address_only(tmp_path: Path) -> None:
    """Each try of a stranger's is a guess."""

    async def work(join: Callable[..., asyncio.Future[Identity]]) -> None:
        other, gate = Gate(tmp_path / "other"), Gate(tmp_path / "home")
        with pytest.raises(JoinFailed):
            await join(tmp_path / "phone", gate.invited.code, "phone", [other.address, gate.address])
        assert gate.said == [] and gate.invitations.open(time.time()) == (gate.invited,)
        for each in (other, gate):
            each.close()

    joining(work)


def test_who_is_refused_for_its_invitation_asks_nowhere_else(tmp_path: Path) -> None:
    async def work(join: Callable[..., asyncio.Future[Identity]]) -> None:
        gate = Gate(tmp_path / "home")
        gate.invitations.withdraw(gate.invited.number)
        with pytest.raises(JoinFailed, match="This invitation has expired"):
            await join(tmp_path / "phone", gate.payload, "phone", [gate.address, gate.address])
        assert gate.said == ["127.0.0.1: was refused: expired"]
        gate.close()

    joining(work)


def test_a_server_that_comes_to_no_end_keeps_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had twenty seconds for each byte."""
    monkeypatch.setattr(asking, "ANSWER_S", 10 * TRICKLE_S)

    async def work(join: Callable[..., asyncio.Future[Identity]]) -> None:
        gate = Gate(tmp_path / "home")
        async with trickling(tmp_path / "stranger") as address:
            with pytest.raises(JoinFailed, match=r"ended before this device was taken in\. Try again|No cluster"):
                await join(tmp_path / "phone", gate.payload, "phone", [address])
            monkeypatch.setattr(asking, "ENROL_S", 0.0)
            with pytest.raises(JoinFailed, match="No cluster answers"):
                await join(tmp_path / "phone", gate.payload, "phone", [address])
        gate.close()

    joining(work)
