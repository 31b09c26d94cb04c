"""Links of a host with others than the coordinator's: made when they are first needed, straight where the other one can
be dialled, and else through the coordinator's gate, which cannot read what goes through them."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Callable
from contextlib import suppress

from shardnet.errors import ClusterError
from shardnet.gate.destinations import Gate, written
from shardnet.gate.hosts import Hosts
from shardnet.gate.network import Network
from shardnet.trust.addresses import Address
from shardnet.trust.certificates import Peer, peer_of
from shardnet.trust.contexts import client_context, server_mark
from shardnet.trust.identity import Identity
from shardnet.tunnel.connection import Connection
from shardnet.tunnel.meeting import Meeting
from shardnet.tunnel.nested_tls import dial_over
from shardnet.tunnel.session import LinkSession

HANDSHAKE_S = 5.0
STRAIGHT_AGAIN_S = 20.0
"""After which a straight way is looked for again."""
DIAL_S = 30.0
"""How long it may take to reach another host, before who wants to is told that it is out of reach."""


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
        self._serials: dict[str, int] = {}
        self._straightening: dict[str, asyncio.Task[None]] = {}
        self._has_heard = asyncio.Event()
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
        for host in [host for host, serial in self._serials.items() if serial in hosts.revoked]:
            del self._serials[host]
            self._meeting.shut_out(host, "shut out")
        self._has_heard.set()

    def close(self) -> None:
        """Look for no other ways any more."""
        for task in (*self._straightening.values(), *self._dialling.values()):
            task.cancel()

    def note(self, peer: Peer) -> None:
        """The certificate with which a host has come, or was reached."""
        self._serials[peer.name] = peer.serial

    def counts(self, serial: int) -> bool:
        """Whether a certificate was not revoked, as far as is known here."""
        return serial not in self._hosts.revoked

    async def session_to(self, host: str) -> LinkSession:
        """The link with a host. Whoever asks while it is being made waits with the others.

        Raises:
            ClusterError: it is out of reach.
        """
        session = self._attached(host)
        if session is not None:
            return session
        dialling = self._dialling.get(host)
        if dialling is None:
            dialling = self._dialling[host] = asyncio.ensure_future(self._dial(host))
            dialling.add_done_callback(lambda _: self._dialling.pop(host))
        return await asyncio.shield(dialling)

    async def _dial(self, host: str) -> LinkSession:
        numbers = itertools.count()

        async def connect() -> Connection:
            gates = self._hosts.addresses.get(host, ())
            number = next(numbers) % (len(gates) + 1)
            if number == len(gates):
                return await self._through_hub(host)
            return await self._straight(host, gates[number])

        try:
            return await asyncio.wait_for(self._meeting.dial(connect, host), DIAL_S)
        except asyncio.TimeoutError:
            raise ClusterError(f"{host} is out of reach.") from None

    def _attached(self, host: str) -> LinkSession | None:
        found = [each for each in self._meeting.sessions if each.peer == host and each.is_attached]
        return found[-1] if found else None

    async def _straight(self, host: str, gate: Address) -> Connection:
        self._network.require(gate)
        connection, peer = await dial_straight(gate, self._context, server_mark(self._identity, host))
        self.note(peer)
        return self._if_it_counts(host, connection)

    async def _through_hub(self, host: str) -> Connection:
        try:
            session = self._hub()
        except ClusterError as error:
            raise OSError(str(error)) from error
        connection = Connection()
        mark = server_mark(self._identity, host)
        tls = await dial_over(session, written(Gate(host)), connection, self._context, mark, HANDSHAKE_S)
        self.note(_proven(connection, tls))
        if host not in self._straightening:
            straightening = self._straightening[host] = asyncio.ensure_future(self._straighten(host))
            straightening.add_done_callback(lambda _: self._straightening.pop(host))
        return self._if_it_counts(host, connection)

    def _if_it_counts(self, host: str, connection: Connection) -> Connection:
        """
        Raises:
            ClusterError: the certificate that the host has shown was revoked, just now at the latest.
        """
        if not self.counts(self._serials[host]):
            connection.abort()
            raise ClusterError(f"{host} was shut out.")
        return connection

    async def _straighten(self, host: str) -> None:
        """Leave the way through the coordinator's gate for a straight one, when there is one: the host was out of reach
        for a moment only, say, or can be dialled now."""
        while True:
            self._has_heard.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._has_heard.wait(), STRAIGHT_AGAIN_S)
            session = self._attached(host)
            if session is None or not session.vigil.is_carried:
                return
            for gate in self._hosts.addresses.get(host, ()):
                with suppress(OSError, ClusterError, asyncio.TimeoutError):
                    connection = await asyncio.wait_for(self._straight(host, gate), HANDSHAKE_S)
                    await self._meeting.move(session, connection)
                    break
