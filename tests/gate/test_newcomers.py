"""Those who enrol at the port of a gate, and what they may hold of it."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from strangers import AT_ANY_PACE
from trusted import Home

from shardnet.gate.arrivals import Arrivals
from shardnet.gate.listening import addresses_of, listen
from shardnet.gate.newcomers import MOST_NEWCOMERS, MOST_OF_ONE, Newcomers
from shardnet.trust.addresses import Address
from shardnet.trust.answering import Desk
from shardnet.trust.contexts import enrolment_context, server_context
from shardnet.trust.invitations import Invitations
from shardnet.trust.keys import fingerprint_of

NUM_REFUSED = 60
TLS_CLOSES_S = 30.0
"""After which asyncio's TLS itself lets go of a connection whose other end does not close it."""


@asynccontextmanager
async def gate(folder: Path, said: list[str]) -> AsyncIterator[Address]:
    home = Home(folder / "home")
    listeners = listen(["127.0.0.1:0"])
    (address,) = addresses_of(listeners)
    key = fingerprint_of(home.identity.key.public_key())
    newcomers = Newcomers(Desk(home.admission, Invitations(), key, lambda: (address,)), lambda name: None, said.append)
    context = server_context(home.identity)
    arrivals = Arrivals(
        *(listeners, lambda: context, home.admission.counts, lambda *_: None, newcomers.take, said.append),
        paces=AT_ANY_PACE,
    )
    yield address
    arrivals.close()


async def refused_and_staying(address: Address) -> asyncio.StreamWriter:
    """Over TLS that never answers what ends it."""
    reader, writer = await asyncio.open_connection(*address)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = enrolment_context().wrap_bio(incoming, outgoing)
    while not _has_shaken(tls):
        writer.write(outgoing.read())
        incoming.write(await reader.read(2**16))
    tls.write(b"nonsense")
    writer.write(outgoing.read())
    return writer


def _has_shaken(tls: ssl.SSLObject) -> bool:
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def num_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_who_was_refused_holds_no_connection(tmp_path: Path) -> None:
    """Some tens of them a second once took all the files that a gate may open."""

    async def run() -> None:
        said: list[str] = []
        async with gate(tmp_path, said) as address:
            before = num_files() + NUM_REFUSED  # the ends of the strangers are here, too
            strangers = [await refused_and_staying(address) for _ in range(NUM_REFUSED)]
            while len(said) < NUM_REFUSED:
                await asyncio.sleep(0.001)
            began_s = asyncio.get_running_loop().time()
            while num_files() > before + MOST_NEWCOMERS:
                await asyncio.sleep(0.001)
            while num_files() > before:
                await asyncio.sleep(0.01)
            assert asyncio.get_running_loop().time() - began_s < TLS_CLOSES_S / 2
            assert said == ["127.0.0.1: was refused: not understood"] * NUM_REFUSED
            for stranger in strangers:
                stranger.transport.abort()

    asyncio.run(asyncio.wait_for(run(), 100))


def test_a_crowd_at_one_address_keeps_nobody_else_out(tmp_path: Path) -> None:
    """Whoever was just being taken in once made room for it, and had its code burnt."""

    async def run() -> None:
        said: list[str] = []
        async with gate(tmp_path, said) as address:
            reader, writer = await asyncio.open_connection(
                *address, ssl=enrolment_context(), server_hostname="gate", local_addr=("127.0.0.2", 0)
            )
            crowd = [
                await asyncio.open_connection(*address, ssl=enrolment_context(), server_hostname="gate")
                for _ in range(2 * MOST_NEWCOMERS)
            ]
            while len(said) < 2 * MOST_NEWCOMERS - MOST_OF_ONE:
                await asyncio.sleep(0.001)
            writer.write(b"nonsense")
            assert await reader.read(), "it was answered"
            assert said.count("127.0.0.1: came, and said nothing") >= 2 * MOST_NEWCOMERS - MOST_OF_ONE
            for _, stranger in (*crowd, (reader, writer)):
                stranger.transport.abort()

    asyncio.run(asyncio.wait_for(run(), 100))
