"""The gate of the coordinator's host: other hosts dial it, come to the door through it, and reach each other's members.

It outlives a coordinator that was killed: what members say to each other goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from shardnet.errors import ClusterError
from shardnet.gate.arrivals import Say, refused
from shardnet.gate.destinations import HOSTS, Gate, Member, read, written
from shardnet.gate.local import connect_there, reach
from shardnet.gate.ports import LOOPBACK, Ports
from shardnet.gate.switchboard import Switchboard
from shardnet.process.lasting import DOOR, GATE, STATUS, TRUST
from shardnet.process.tasks import Tasks
from shardnet.transport.door.listening import short_path
from shardnet.transport.door.messages import (
    MOST_SAID_BYTES,
    AddPort,
    AllTold,
    Carried,
    Carrying,
    Done,
    DropPort,
    Refused,
    length_in,
    pack,
    unpack,
)
from shardnet.transport.wire.values import COUNT, Undecodable
from shardnet.trust.addresses import Address
from shardnet.trust.names import COORDINATOR
from shardnet.trust.peers import Peer
from shardnet.tunnel.forward import Pump, carry, entrance
from shardnet.tunnel.limits import Limits
from shardnet.tunnel.meeting import Meeting
from shardnet.tunnel.session import LinkSession
from shardnet.tunnel.stream import Stream

PATHS = {DOOR: GATE, STATUS: STATUS, TRUST: f"{TRUST}/{TRUST}"}
"""Where in the coordinator's folder each socket is that other hosts reach."""
LOOK_AGAIN_S = 0.2
"""After which the door is looked for again."""
TOLD_S = 10.0
"""How long it may take to hear from the door who is a member."""
KEEP_S = 600.0
"""How long a gate outlives a coordinator that was killed and may be started again."""
Revoked = Callable[[], frozenset[int]]


class Hub:
    """Carries for the members of a cluster, as the door in its folder says who is one.

    Args:
        folder: the coordinator's state folder.
        revoked: the serial numbers of certificates that do not count any more.
        gates: where this gate can be dialled now.
        say: told, in a sentence, of every host that wanted a link which it may not have.
    """

    def __init__(
        self,
        folder: Path,
        revoked: Revoked,
        gates: Callable[[], Sequence[Address]] = tuple,
        say: Say = lambda sentence: None,
        limits: Limits | None = None,
        loopback: str = LOOPBACK,
    ) -> None:
        self._folder = folder
        self._loopback = loopback
        self._meeting = Meeting(lambda session: None, self._on_stream, limits, refused(say))
        self._is_told = asyncio.Event()
        """While the door is there, and has told of all who are."""
        self._switchboard = Switchboard(revoked, gates)
        self._ports = Ports("", self._entrance_of, loopback)
        self._tasks = Tasks()

    def let_in(self, transport: asyncio.Transport, peer: Peer) -> None:
        """Go on with a connection of another host, which has shown its certificate."""
        self._meeting.accept(transport, peer.name, peer.until_s)

    def end_links(self, host: str, reason: str) -> None:
        """Carry nothing more for a host, and tell it why."""
        self._meeting.shut_out(host, reason)
        self._switchboard.forget(host)
        self.tell_hosts()

    def hosts(self) -> dict[str, tuple[Address, ...]]:
        """Those with which there is a link session now, and where others can dial each."""
        addresses = self._switchboard.addresses
        return {session.peer: addresses.get(session.peer, ()) for session in self._meeting.sessions}

    def network_changed(self, addresses: Collection[str]) -> None:
        """This host has these addresses now."""
        self._meeting.network_changed(addresses)

    def tell_hosts(self) -> None:
        """Tell the others what is so now: where hosts can be dialled, and which certificates do not count."""
        self._switchboard.tell()

    def out_of_reach(self) -> dict[str, tuple[Address, ...]]:
        """The hosts with which nothing is carried at the moment, and where each could be dialled last."""
        linked = {each.peer for each in self._meeting.sessions if not each.vigil.is_connection_needed}
        return {host: said for host, said in self._switchboard.dialled_at.items() if said and host not in linked}

    def close(self, reason: str) -> None:
        """End all link sessions."""
        self._meeting.end(reason)

    async def follow_door(self) -> None:
        """Hear from the door who is a member, until it has been gone for too long."""
        gone_since_s = time.monotonic()
        while time.monotonic() < gone_since_s + KEEP_S:
            try:
                with short_path(self._folder / GATE) as name:
                    reader, writer = await asyncio.open_unix_connection(name)
            except OSError:
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            try:
                await self._hear_from(reader, writer)
            except (OSError, EOFError, Undecodable):
                gone_since_s = time.monotonic()
            finally:
                self._is_told.clear()
                writer.transport.abort()

    async def _hear_from(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(pack(Carrying()))
        while True:
            head = await reader.readexactly(COUNT.size)
            told = unpack(await reader.readexactly(length_in(head, MOST_SAID_BYTES)))
            if type(told) is AddPort:
                is_reached = self._ports.add(told.id, told.port, told.host)
                writer.write(pack(Done(told.number, 0) if is_reached else Refused(told.number, "PortTaken", "")))
            elif type(told) is DropPort:
                self._ports.drop(told.id)
            elif type(told) is AllTold:
                self._is_told.set()
            else:
                raise Undecodable("the door says nothing else to a gate")

    def _entrance_of(self, member: Member) -> asyncio.Protocol:
        return entrance(partial(self._session_to, member.host), written(member))()

    def _session_to(self, host: str) -> LinkSession:
        """
        Raises:
            ClusterError: there is none.
        """
        found = [session for session in self._meeting.sessions if session.peer == host]
        if not found:
            raise ClusterError(f"There is no link with {host}.")
        return found[-1]

    def _on_stream(self, session: LinkSession, stream: Stream) -> None:
        wanted = read(stream.destination)
        if wanted is None:
            stream.abort()
        elif isinstance(wanted, Member):
            self._lead_to(wanted, stream)
        elif isinstance(wanted, Gate):
            self._relay(wanted, stream)
        elif wanted == HOSTS:
            self._switchboard.take(session, stream)
        else:
            preface = b"" if wanted != DOOR else pack(Carried(session.peer))
            path = self._folder / PATHS[wanted]
            self._tasks.start(carry(stream, partial(connect_there, path, preface)))

    def _lead_to(self, member: Member, stream: Stream) -> None:
        if member.host == COORDINATOR:
            self._tasks.start(self._carry_to(member.port, stream))
        else:
            stream.abort()

    async def _carry_to(self, port: int, stream: Stream) -> None:
        """While the door is away others may have heard already of a member of which this gate has not."""
        if not self._ports.is_own(port):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._is_told.wait(), TOLD_S)
        if self._ports.is_own(port):
            await carry(stream, partial(reach, self._loopback, port))
        else:
            stream.abort()

    def _relay(self, gate: Gate, stream: Stream) -> None:
        """Carry between two other hosts what this one cannot read."""
        pump = Pump()
        try:
            self._session_to(gate.host).open_stream(lambda: pump, written(gate))
        except ClusterError:
            stream.abort()
        else:
            stream.begin(pump.other)
