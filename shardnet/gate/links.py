"""Links of a host with others than the coordinator's: made when they are first needed, straight where the other one can
be dialled, and else through the coordinator's gate, which cannot read what goes through them."""

from __future__ import annotations

import asyncio
import itertools
import random
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from shardnet.errors import ClusterError
from shardnet.gate.calling import MOST_CALL_BYTES
from shardnet.gate.destinations import HOSTS, Gate, written
from shardnet.gate.hosts import Hosts, unpack_addresses
from shardnet.gate.network import Network
from shardnet.trust.addresses import Address
from shardnet.trust.contexts import client_context, server_mark
from shardnet.trust.identity import Identity
from shardnet.trust.peers import Peer, peer_of
from shardnet.tunnel.connection import Connection
from shardnet.tunnel.forward import open_reader_writer
from shardnet.tunnel.meeting import Meeting
from shardnet.tunnel.nested_tls import dial_over
from shardnet.tunnel.session import LinkSession

HANDSHAKE_S = 5.0
STRAIGHT_AGAIN_S = 20.0
"""After which a straight way is looked for again."""
DIAL_S = 30.0
"""How long it may take to reach another host, before who wants to is told that it is out of reach."""
MOST_ASKED = 3
"""Hosts that are asked for the coordinator's gate at the same time."""
ANSWER_S = 5.0


async def dial_straight(gate: Address, context: ssl.SSLContext, mark: str) -> tuple[Connection, Peer]:
    """A connection to the gate of a host, and the certificate that it has shown.

    Raises:
        OSError: it is not reached, or it is another host.
    """
    transport, connection = await asyncio.get_running_loop().create_connection(
        Connection, *gate, ssl=context, server_hostname=mark, ssl_handshake_timeout=HANDSHAKE_S
    )
    return connection, _proven(connection, transport.get_extra_info("ssl_object"))


def _proven(connection: Connection, tls: ssl.SSLObject) -> Peer:
    peer = peer_of(tls)
    assert peer is not None, "servers always show one"
    connection.until_s = peer.until_s
    return peer


class Links:
    """By the names of the hosts.

    Args:
        hub: the link with the coordinator's host; ClusterError where there is none.
    """

    def __init__(self, identity: Identity, meeting: Meeting, hub: Callable[[], LinkSession], network: Network) -> None:
        self._network = network
        self._meeting = meeting
        self._hub = hub
        self._hosts = Hosts({})
        self.has_heard = False
        """Of the hosts, and which certificates were revoked."""
        self._dialling: dict[str, asyncio.Task[LinkSession]] = {}
        self._names: dict[int, str] = {}
        """Of hosts that have come or were reached, by the serial numbers of all certificates that they have shown."""
        self._straightening: dict[LinkSession, asyncio.Task[None]] = {}
        self._news = asyncio.get_running_loop().create_future()
        """Done when something is heard, and another one then."""
        self.know(identity)

    def know(self, identity: Identity) -> None:
        """The identity of this host from now on."""
        self._identity = identity
        self._context = client_context(identity)

    def hear(self, hosts: Hosts) -> None:
        """Which hosts there are now. What links there are with those that were shut out end, and those that can be
        dialled elsewhere now are dialled there, where that is needed."""
        before, self._hosts, self.has_heard = self._hosts, hosts, True
        for host, addresses in hosts.addresses.items():
            if addresses != before.addresses.get(host):
                self._meeting.hurry(host)
        for serial in hosts.revoked & self._names.keys():
            self._meeting.shut_out(self._names.pop(serial), "shut out")
        heard, self._news = self._news, asyncio.get_running_loop().create_future()
        heard.set_result(None)

    def close(self) -> None:
        """Look for no other ways any more."""
        for task in (*self._straightening.values(), *self._dialling.values()):
            task.cancel()

    def note(self, peer: Peer) -> None:
        """The certificate with which a host has come, or was reached."""
        self._names[peer.serial] = peer.name

    def counts(self, serial: int) -> bool:
        """Whether a certificate was not revoked, as far as is known here."""
        return serial not in self._hosts.revoked

    async def session_to(self, host: str) -> LinkSession:
        """The link with a host. Whoever asks while it is being made waits with the others. One that was begun here and
        has lost its connection will do, for it comes back.

        Raises:
            ClusterError: it is out of reach.
        """
        there = [each for each in self._meeting.sessions if each.peer == host]
        for session in [each for each in reversed(there) if each.is_attached] or there:
            if session.is_attached or self._meeting.dials(session):
                return session
        dialling = self._dialling.get(host)
        if dialling is None:
            dialling = self._dialling[host] = asyncio.ensure_future(self._dial(host))
            dialling.add_done_callback(lambda _: self._dialling.pop(host))
        return await asyncio.shield(dialling)

    def ask_for_gates(self) -> list[Coroutine[Any, Any, tuple[Address, ...]]]:
        """Ask some of the others where the coordinator's gate can be dialled."""
        there = [host for host, said in self._hosts.addresses.items() if said and host != self._identity.name]
        return [self._ask_for_gates(host) for host in random.sample(there, min(len(there), MOST_ASKED))]

    async def _ask_for_gates(self, host: str) -> tuple[Address, ...]:
        """None where it is not reached, or has not heard, either. A link that was made for it ends with it."""
        before = self._meeting.sessions
        with suppress(OSError, ValueError, ClusterError, asyncio.TimeoutError):
            session = await self.session_to(host)
            reader, writer = open_reader_writer(session, written(HOSTS), MOST_CALL_BYTES)
            try:
                return unpack_addresses(await asyncio.wait_for(reader.readline(), ANSWER_S))
            finally:
                writer.transport.abort()
                if session not in before and not session.num_streams:
                    session.end("it was asked something, and is not needed any more")
        return ()

    async def _dial(self, host: str) -> LinkSession:
        numbers = itertools.count()

        async def connect() -> Connection:
            gates = self._hosts.addresses.get(host, ())
            number = next(numbers) % (len(gates) + 1)
            if number == len(gates):
                return await self._through_hub(host)
            return await self._straight(host, gates[number])

        try:
            session = await asyncio.wait_for(self._meeting.dial(connect, host), DIAL_S)
        except asyncio.TimeoutError:
            raise ClusterError(f"{host} is out of reach.") from None
        session.on_change = self._look_at
        self._look_at(session)
        return session

    def _look_at(self, session: LinkSession) -> None:
        """It has another connection, or none."""
        if session.vigil.is_carried and session not in self._straightening:
            straightening = self._straightening[session] = asyncio.ensure_future(self._straighten(session))
            straightening.add_done_callback(lambda _: self._straightening.pop(session))

    async def _straight(self, host: str, gate: Address) -> Connection:
        self._network.require(gate)
        connection, peer = await dial_straight(gate, self._context, server_mark(self._identity, host))
        return self._if_it_counts(peer, connection)

    async def _through_hub(self, host: str) -> Connection:
        connection = Connection()
        mark = server_mark(self._identity, host)
        try:
            session = self._hub()
            tls = await dial_over(session, written(Gate(host)), connection, self._context, mark, HANDSHAKE_S)
        except ClusterError as error:  # there is no link with it, or no room on that; there may be later
            raise OSError(str(error)) from error
        return self._if_it_counts(_proven(connection, tls), connection)

    def _if_it_counts(self, peer: Peer, connection: Connection) -> Connection:
        """
        Raises:
            ClusterError: the certificate that the host has shown was revoked, just now at the latest.
        """
        if not self.counts(peer.serial):
            connection.abort()
            raise ClusterError(f"{peer.name} was shut out.")
        self.note(peer)
        return connection

    async def _straighten(self, session: LinkSession) -> None:
        """Leave the way through the coordinator's gate for a straight one, when there is one: the host was out of reach
        for a moment only, say, or can be dialled now."""
        while session.vigil.is_carried:
            news = self._news  # from before the attempt: what is heard meanwhile is followed, too
            for gate in self._hosts.addresses.get(session.peer, ()):
                with suppress(OSError, ClusterError, asyncio.TimeoutError):
                    connection = await asyncio.wait_for(self._straight(session.peer, gate), HANDSHAKE_S)
                    await self._meeting.move(session, connection)
                    break
            else:
                await asyncio.wait([news], timeout=STRAIGHT_AGAIN_S)
