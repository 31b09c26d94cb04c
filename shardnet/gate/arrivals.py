"""Who comes to the port of a gate: TLS when it is its turn, in little time and few at once, then what it may do."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from shardnet.gate.sent_away import SentAway
from shardnet.gate.turns import Paces, Turns, place_of
from shardnet.process.crowds import Crowds
from shardnet.trust.contexts import CALL, ENROL, LINK
from shardnet.trust.handshakes import reason_of
from shardnet.trust.names import COORDINATOR
from shardnet.trust.peers import Peer, peer_of

HANDSHAKE_S = 10.0
MOST_SHAKING, MOST_OF_ONE = 64, 16
"""Handshakes at the same time, of all and of one address. The one that takes longest makes room."""
AGAIN_S = 0.1
"""After which connections are taken again, when this process had no file left for one."""
OnLink = Callable[[asyncio.Transport, Peer], object]
"""Given who has shown a certificate of this cluster."""
OnNewcomer = Callable[[asyncio.Transport, "Peer | None"], object]
Say = Callable[[str], object]


class _Come(NamedTuple):
    """Who waits for its turn."""

    connection: socket.socket
    place: str


class Arrivals:
    """Serves listeners from when it is made until it is closed.

    Args:
        context: for each handshake, as the own certificate is renewed now and then.
        counts: whether a certificate, by its serial number, was not revoked.
        say: told, in a sentence, of everybody who was not let in.
        on_call: likewise given who is called, where this gate is not the one that calls others.
        paces: of handshakes.
    """

    def __init__(
        self,
        listeners: list[socket.socket],
        context: Callable[[], ssl.SSLContext],
        counts: Callable[[int], bool],
        on_link: OnLink,
        on_newcomer: OnNewcomer,
        say: Say,
        on_call: OnLink | None = None,
        paces: Paces | None = None,
    ) -> None:
        self._on_call = on_call
        self._context = context
        self._counts = counts
        self._on_link = on_link
        self._on_newcomer = on_newcomer
        self._say = say
        self._turns: Turns[_Come] = Turns(paces)
        self._sent_away = SentAway(say)
        self._shaking: Crowds[asyncio.Task[None]] = Crowds(MOST_OF_ONE, MOST_SHAKING)
        self._is_due = asyncio.Event()
        """It may be somebody's turn."""
        self._serving = [asyncio.ensure_future(each) for each in (self._give_turns(), *map(self._accept, listeners))]

    def close(self) -> None:
        """Take nobody any more."""
        for task in (*self._serving, *self._shaking):
            task.cancel()
        for come in self._turns.waiting:
            self._send_away(come)
        self._sent_away.tell()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        with listener:
            while True:
                try:
                    connection, address = await loop.sock_accept(listener)
                except OSError:
                    await asyncio.sleep(AGAIN_S)
                    continue
                place = place_of(address)
                self._turns.come(_Come(connection, place), place, loop.time())
                self._is_due.set()
                await asyncio.sleep(0)  # where many wait, they must not keep those who were let in from speaking

    async def _give_turns(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._is_due.clear()
            begun, sent_away = self._turns.look(loop.time())
            for come in sent_away:
                self._send_away(come)
            for come in begun:
                self._begin(come)
                await asyncio.sleep(0)  # each has begun before it makes room, and is logged
            again_s = self._turns.again_s(loop.time())
            looking = None if again_s is None else loop.call_at(again_s, self._is_due.set)
            await self._is_due.wait()
            if looking is not None:
                looking.cancel()

    def _begin(self, come: _Come) -> None:
        task = asyncio.ensure_future(self._shake(*come))
        makes_room = self._shaking.add(task, self._turns.crowd_of(come.place))
        task.add_done_callback(self._shaking.remove)
        if makes_room is not None:
            makes_room.cancel()

    def _send_away(self, come: _Come) -> None:
        come.connection.close()
        self._sent_away.note(come.place)

    async def _shake(self, connection: socket.socket, place: str) -> None:
        loop, shaking = asyncio.get_running_loop(), asyncio.current_task()
        assert shaking is not None
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                lambda: Arrived(partial(self._have_shaken, shaking, place)),
                connection,
                ssl=self._context(),
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        except OSError as error:
            connection.close()
            self._say(f"{place}: {reason_of(error)}")
        except asyncio.CancelledError:
            connection.close()
            self._say(f"{place}: made room for others before it had shown who it is")
            raise

    def _have_shaken(self, task: asyncio.Task[None], place: str, transport: asyncio.Transport) -> None:
        """From here on somebody else has the connection: it makes no room for others any more."""
        self._shaking.remove(task)
        member = self.let_in(place, transport)
        if member is not None:
            self._turns.prove(place, member.name, asyncio.get_running_loop().time())
            self._is_due.set()

    def let_in(self, place: str, transport: asyncio.Transport) -> Peer | None:
        """Go on with a connection after its handshake, or end it. Returns the member that it is of."""
        tls = transport.get_extra_info("ssl_object")
        peer, protocol = peer_of(tls), tls.selected_alpn_protocol()
        if peer is not None and not self._counts(peer.serial):
            self._say(f"{place}: showed the certificate of {peer.name}, which was revoked")
        elif protocol == LINK and peer is not None:
            self._on_link(transport, peer)
            return peer
        elif protocol == CALL and self._on_call is not None and peer is not None and peer.name == COORDINATOR:
            self._on_call(transport, peer)
            return peer
        elif protocol == ENROL:
            self._on_newcomer(transport, peer)
            return peer
        elif protocol == CALL and peer is not None:
            self._say(f"{place}: {peer.name} passes for the coordinator")
        else:
            self._say(f"{place}: showed no certificate" if peer is None else f"{place}: speaks no protocol of ours")
        transport.abort()
        return None


class Arrived(asyncio.Protocol):
    """Hands the connection on before anything is read of it."""

    def __init__(self, let_in: Callable[[asyncio.Transport], object]) -> None:
        self._let_in = let_in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._let_in(transport)


def refused(say: Say) -> Callable[[str, str], object]:
    """What tells of a host that came with its certificate, and wanted what it may not have."""
    return lambda peer, reason: say(f"{peer}: was refused: {reason}")
