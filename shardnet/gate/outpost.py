"""The gate of any other host: dials the coordinator's, and offers its sockets and all members' ports here."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from shardnet.errors import ClusterError
from shardnet.gate.arrivals import MOST_SHAKING, Arrivals, Arrived, refused
from shardnet.gate.calling import Called
from shardnet.gate.destinations import HOSTS, Gate, Member, read, written
from shardnet.gate.door_entrance import DoorEntrance, OtherDoor
from shardnet.gate.hosts import MOST_LINE_BYTES, pack_addresses, unpack_hosts
from shardnet.gate.links import HANDSHAKE_S, Links, dial_straight
from shardnet.gate.listening import addresses_of
from shardnet.gate.local import LateEntrance, reach
from shardnet.gate.network import Network
from shardnet.gate.ports import LOOPBACK, Ports
from shardnet.gate.rota import Rota
from shardnet.gate.search import Search
from shardnet.process.crowds import Crowds
from shardnet.process.lasting import DOOR
from shardnet.process.tasks import Tasks
from shardnet.trust.addresses import Address
from shardnet.trust.contexts import client_context, server_context, server_mark
from shardnet.trust.handshakes import reason_of
from shardnet.trust.identity import MOST_GATES, Identity
from shardnet.trust.names import COORDINATOR
from shardnet.trust.peers import Peer
from shardnet.tunnel.connection import Connection
from shardnet.tunnel.dialling import first_through
from shardnet.tunnel.forward import Pump, carry, entrance, open_reader_writer
from shardnet.tunnel.greeting import GateOfOtherVersion
from shardnet.tunnel.limits import Limits
from shardnet.tunnel.meeting import Meeting
from shardnet.tunnel.nested_tls import answer_over
from shardnet.tunnel.session import LinkSession
from shardnet.tunnel.stream import Stream
from shardnet.versions import Version

AGAIN_S = 1.0
"""After which the coordinator's gate is dialled anew, when a link session is over or was refused."""
OTHER_VERSION_AGAIN_S = 60.0
"""The same where it has a version that does not go with this one: somebody has to install another one first."""
Say = Callable[[str], object]


class Outpost:
    """Carries for the members of this host.

    Args:
        listeners: where other hosts can dial this one; none where they cannot.
        say: told, in a sentence, when the link is there and when it is over.
        keep_gates: given where the coordinator's gate can be dialled, when that is somewhere else.
    """

    def __init__(
        self,
        identity: Identity,
        listeners: list[socket.socket],
        say: Say,
        keep_gates: Callable[[Sequence[Address]], object] = lambda gates: None,
        limits: Limits | None = None,
        loopback: str = LOOPBACK,
    ) -> None:
        self._loopback = loopback
        self._listeners = listeners
        self._say = say
        self._keep_gates = keep_gates
        self._network = Network()
        self._network.on_change.append(self._network_changed)
        self._rota = Rota(identity.gates)
        self._told: tuple[Address, ...] = ()
        """Where the coordinator's gate has said last that it can be dialled."""
        self._has_moved = asyncio.Event()
        self._meeting = Meeting(lambda session: None, self._on_stream, limits, refused(say))
        self._session: LinkSession | None = None
        self._other_version: Version | None = None
        """Of the coordinator's gate, where it does not go with this one."""
        self._links = Links(identity, self._meeting, self.session, self._network)
        self._search = Search(identity.cluster_id, self._links.ask_for_gates, self._may_be_at)
        self.arrivals = Arrivals(
            listeners,
            lambda: self._own_context,
            self._links.counts,
            self._let_in,
            self._refuse,
            say,
            on_call=lambda transport, peer: self._be_called(transport),
        )
        self.ports = Ports(identity.name, self._entrance_of, loopback)
        self.know(identity)
        self._tasks = Tasks()
        self._shaking: Crowds[Stream] = Crowds(MOST_SHAKING)
        """Of those that come through the coordinator's gate, where it is not known from whom."""

    def know(self, identity: Identity) -> None:
        """The identity of this host from now on, of the same name: the certificate for the next connection, and where
        to dial."""
        self.identity = identity
        self._context, self._own_context = client_context(identity), server_context(identity)
        self._links.know(identity)
        self._rota.know(identity.gates)

    def _know_gates(self, told: Sequence[Address]) -> None:
        """The coordinator's gate can be dialled there, it says. Where it was before it may be again; but what it says
        no more is forgotten before what somebody has typed here, which it need not know: that of a router, say."""
        reached = () if self._rota.reached is None else (self._rota.reached,)
        older = sorted(self.identity.gates, key=self._told.__contains__)
        self._told = tuple(told[: MOST_GATES // 2])
        gates = tuple(dict.fromkeys([*reached, *self._told, *older]))[:MOST_GATES]
        if gates != self.identity.gates:
            self.identity = replace(self.identity, gates=gates)
            self._rota.know(gates)
            self._keep_gates(gates)

    def _be_called(self, transport: asyncio.Transport) -> None:
        called = Called(self._hear_call)
        transport.set_protocol(called)
        called.connection_made(transport)

    def _hear_call(self, addresses: Sequence[Address]) -> None:
        self._know_gates(addresses)
        self._meeting.hurry(COORDINATOR)

    def _may_be_at(self, addresses: Sequence[Address]) -> None:
        """Somebody says so."""
        self._rota.try_once(addresses)
        self._meeting.hurry(COORDINATOR)

    def _network_changed(self) -> None:
        self._has_moved.set()
        self._meeting.network_changed(self._network.addresses)

    async def stay_linked(self) -> None:
        """Dial the coordinator's gate, and again when that is over. Never ends by itself."""
        while True:
            try:
                self._session = await self._meeting.dial(self._connect, COORDINATOR)
            except GateOfOtherVersion as error:
                self._say(str(error))
                self._other_version = error.theirs
                await asyncio.sleep(OTHER_VERSION_AGAIN_S)
            except ClusterError as error:
                self._say(str(error))
            else:
                self._say("linked")
                self._other_version = None
                hearing = asyncio.ensure_future(self._hear_of_hosts(self._session))
                try:
                    self._say(f"the link is over: {await self._session.wait_over()}")
                finally:
                    hearing.cancel()
            await asyncio.sleep(AGAIN_S)

    async def _hear_of_hosts(self, session: LinkSession) -> None:
        """Say where this host can be dialled, also when that changes, and hear of the others, as long as there is that
        link: who hears nothing lets in whoever was shut out meanwhile."""
        while not session.why_over:
            try:
                await self._hear_once(session)
            except (OSError, ValueError, ClusterError) as error:
                if not session.why_over:
                    self._say(f"of other hosts nothing is heard for the moment: {error}")
            await asyncio.sleep(AGAIN_S)

    async def _hear_once(self, session: LinkSession) -> None:
        """
        Raises:
            OSError, ValueError, ClusterError: it is over.
        """
        reader, writer = open_reader_writer(session, written(HOSTS), MOST_LINE_BYTES)
        telling = asyncio.ensure_future(self._tell_addresses(writer))
        try:
            while True:
                line = await reader.readline()
                if not line:
                    raise ConnectionResetError("the coordinator's gate says no more")
                hosts = unpack_hosts(line)
                self._know_gates(hosts.gates)
                self._links.hear(hosts)
        finally:
            telling.cancel()
            writer.transport.abort()

    async def _tell_addresses(self, writer: asyncio.StreamWriter) -> None:
        told: tuple[Address, ...] | None = None
        while True:
            self._has_moved.clear()
            now = addresses_of(self._listeners)
            if now != told and not self._network.is_cut_off:
                told = now
                writer.write(pack_addresses(now))
            await self._has_moved.wait()

    def _let_in(self, transport: asyncio.Transport, peer: Peer) -> None:
        if not self._links.has_heard:
            self._say(f"{peer.name}: came before it was known here which certificates were revoked")
            transport.abort()
            return
        self._links.note(peer)
        self._meeting.accept(transport, peer.name, peer.until_s)

    def _refuse(self, transport: asyncio.Transport, peer: Peer | None) -> None:
        """Newcomers are taken in by the coordinator's gate only."""
        transport.abort()

    async def serve(self, sockets: Mapping[str, socket.socket]) -> None:
        """Carry what connects to these Unix sockets to the coordinator's of the same names."""
        loop = asyncio.get_running_loop()
        for name, listener in sockets.items():
            make = self._door_entrance if name == DOOR else entrance(self.session, written(name))
            await loop.create_unix_server(make, sock=listener)

    def _door_entrance(self) -> asyncio.Protocol:
        if self._other_version is not None:
            return OtherDoor(self._other_version)
        return DoorEntrance(self.identity.name, self.ports, self._open_to_door, self._say).near

    def _open_to_door(self, far: Pump) -> None:
        """
        Raises:
            ClusterError: there is no link.
        """
        self.session().open_stream(lambda: far, written(DOOR))

    def close(self) -> None:
        """End all links in order."""
        self._network.close()
        self._links.close()
        self._search.close()
        self.arrivals.close()
        self._meeting.end(f"the gate of {self.identity.name} has ended")

    def session(self) -> LinkSession:
        """The link with the coordinator's host, be it attached or not.

        Raises:
            ClusterError: there is none.
        """
        if self._session is None or self._session.why_over:
            raise ClusterError("The coordinator's host is not reached.")
        return self._session

    async def _connect(self) -> Connection:
        try:
            return await first_through([self._connect_at(gate) for gate in self._rota.next()])
        except OSError:
            self._search.begin()
            raise

    async def _connect_at(self, gate: Address) -> Connection:
        self._network.require(gate)
        mark = server_mark(self.identity, COORDINATOR)
        connection, _ = await dial_straight(gate, self._context, mark)
        self._rota.note(gate)
        self._know_gates(self._told)
        return connection

    def _entrance_of(self, member: Member) -> asyncio.Protocol:
        if member.host == COORDINATOR:
            return entrance(self.session, written(member))()
        return LateEntrance(partial(self._links.session_to, member.host), written(member))

    def _on_stream(self, session: LinkSession, stream: Stream) -> None:
        wanted = read(stream.destination)
        is_here = isinstance(wanted, Member) and wanted.host == self.identity.name
        if isinstance(wanted, Member) and is_here and self.ports.is_own(wanted.port):
            self._tasks.start(carry(stream, partial(reach, self._loopback, wanted.port)))
        elif wanted == Gate(self.identity.name) and session is self._session:
            makes_room = self._shaking.add(stream, COORDINATOR)
            if makes_room is not None:
                makes_room.abort()
            self._tasks.start(self._answer(stream))
        elif wanted == HOSTS and session is not self._session:
            stream.begin(_Saying(pack_addresses(self.identity.gates)))
        else:
            stream.abort()

    async def _answer(self, stream: Stream) -> None:
        """Another host has dialled this one through the coordinator's gate."""
        arrived = Arrived(partial(self.arrivals.let_in, "through the coordinator's gate"))
        try:
            await answer_over(stream, arrived, self._own_context, HANDSHAKE_S)
        except OSError as error:
            self._say(f"through the coordinator's gate: {reason_of(error)}")
        finally:
            self._shaking.remove(stream)


class _Saying(asyncio.Protocol):
    """Tells another host, that has lost the coordinator's gate, where this one finds it."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._said)
        transport.close()
