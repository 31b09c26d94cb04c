"""Whoever is shut out is so at once: however its name is spelled, and whatever it was doing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import wait_until
from two_gates import run, two_gates
from two_hosts import Hosts

from shardnet.errors import ClusterError
from shardnet.gate.hosts import Hosts as Others
from shardnet.gate.listening import addresses_of
from shardnet.trust.contexts import client_context, server_mark
from shardnet.trust.names import COORDINATOR
from shardnet.tunnel import frames
from shardnet.tunnel.connection import Connection
from shardnet.tunnel.frames import Kind
from shardnet.tunnel.greeting import Greeting, draw_gate, draw_identity, pack_greeting


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with ExitStack() as ends:
        yield Hosts(tmp_path, ends)


async def shut_out(hosts: Hosts, name: str) -> None:
    hosts.admission.revoke(name, 0.0)
    hosts.hub.end_links(name, "shut out")


def test_a_name_in_other_letters_is_the_same_host(hosts: Hosts) -> None:
    """Its certificate was revoked then, and its link went on."""
    phone = hosts.join("Phone")
    wait_until(lambda: list(hosts.hub.hosts()) == ["Phone"])
    wait_until(lambda: list(hosts.hub._switchboard.dialled_at) == ["Phone"])
    hosts.on_loop(shut_out, hosts, "phone")
    wait_until(lambda: not hosts.hub.hosts())
    wait_until(lambda: "the link is over: shut out" in phone.said)
    assert not hosts.hub.out_of_reach(), "nobody calls it, either"


def test_a_connection_that_has_not_said_what_for_is_refused(hosts: Hosts) -> None:
    """Who was shut out could keep one in reserve, which was taken for its certificate of before."""
    phone = hosts.join("phone")
    hub = hosts.hub._meeting

    async def come_late() -> None:
        context, mark = client_context(phone.identity), server_mark(phone.identity, COORDINATOR)
        reader, writer = await asyncio.open_connection(*hosts.gates[0], ssl=context, server_hostname=mark)
        while not tuple(hub._arrivals):
            await asyncio.sleep(0.001)
        await shut_out(hosts, "phone")
        greeting = Greeting(draw_identity(), 1, is_new=True, gate=draw_gate())
        writer.write(frames.pack(Kind.GREETING, payload=pack_greeting(greeting)))
        said = await reader.read()
        writer.transport.abort()
        assert said == frames.pack_reason(Kind.REFUSED, "shut out")
        assert "phone" not in {session.peer for session in hub.sessions}

    wait_until(lambda: list(hosts.hub.hosts()) == ["phone"])
    hosts.on_loop(come_late)


def test_a_link_that_was_ended_while_it_was_dialled_is_none() -> None:
    """It was made all the same, and nobody looked after it."""

    async def main() -> None:
        async with two_gates() as gates:

            async def connect() -> Connection:
                (session,) = gates.near.sessions
                connection = await gates.connect()
                session.end("shut out")
                return connection

            with pytest.raises(ClusterError, match="over: shut out"):
                await gates.near.dial(connect, "far")
            (far,) = gates.accepted
            assert await far.wait_over() == "shut out"
            assert gates.near.sessions == gates.far.sessions == ()

    run(main())


def test_a_host_that_shows_a_revoked_certificate_is_not_gone_on_with(hosts: Hosts) -> None:
    phone, tablet = hosts.join("phone"), hosts.join("tablet")
    links = tablet.outpost._links
    wait_until(lambda: set(links._hosts.addresses) == {"phone", "tablet"})

    async def dial() -> None:
        links.hear(Others(links._hosts.addresses, frozenset({phone.identity.serial})))
        with pytest.raises(ClusterError, match="phone was shut out"):
            await links.session_to("phone")

    hosts.on_loop(dial)


def test_nobody_is_let_in_before_it_was_heard_who_is_shut_out(hosts: Hosts) -> None:
    """A gate that was just started, while the coordinator was away, let in who had been revoked long ago."""
    phone, tablet = hosts.join("phone"), hosts.join("tablet")
    wait_until(lambda: tablet.outpost._links.has_heard and phone.outpost._links.has_heard)
    (address,) = addresses_of(tablet.outpost._listeners)

    async def come() -> bytes:
        context, mark = client_context(phone.identity), server_mark(phone.identity, "tablet")
        reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname=mark)
        greeting = Greeting(draw_identity(), 1, is_new=True, gate=draw_gate())
        writer.write(frames.pack(Kind.GREETING, payload=pack_greeting(greeting)))
        said = await reader.read(frames.HEAD.size)
        writer.transport.abort()
        return said

    tablet.outpost._links.has_heard = False  # as after a start
    assert hosts.on_loop(come) == b""
    assert "phone: came before it was known here which certificates were revoked" in tablet.said
    tablet.outpost._links.has_heard = True
    assert hosts.on_loop(come)[:1] == bytes([Kind.WELCOME])
