"""Newcomers at the port of a gate: each says what `trust.answering` asks for, in little time and few at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from shardnet.gate.turns import neighbourhood, place_of
from shardnet.process.crowds import Crowds
from shardnet.trust.answering import Answering, Desk
from shardnet.trust.peers import Peer

SILENT_S = 10.0
MOST_S = 30.0
"""How long a newcomer may say nothing, and how long all of it may take."""
CLOSE_S = 2.0
"""How long it may take, when all is said, until it hangs up."""
MOST_NEWCOMERS, MOST_OF_ONE = 32, 8
"""At the same time, of all and of one address, or of one member. The one that takes longest makes room."""
Say = Callable[[str], object]


class Newcomers:
    """Those who are being answered, or have been and still hold their connection.

    Args:
        on_joined: told the name of each device that was taken in.
    """

    def __init__(self, desk: Desk, on_joined: Callable[[str], object], say: Say) -> None:
        self._desk = desk
        self._on_joined = on_joined
        self._say = say
        self._there: Crowds[_Newcomer] = Crowds(MOST_OF_ONE, MOST_NEWCOMERS)

    def take(self, transport: asyncio.Transport, peer: Peer | None) -> None:
        """Answer a connection."""
        newcomer = _Newcomer(Answering(self._desk, peer), self._over, self._gone)
        place = place_of(transport.get_extra_info("peername"))
        makes_room = self._there.add(newcomer, neighbourhood(place) if peer is None else peer.name)
        if makes_room is not None:
            makes_room.hang_up()
        transport.set_protocol(newcomer)
        newcomer.connection_made(transport)

    def _gone(self, newcomer: _Newcomer) -> None:
        self._there.remove(newcomer)

    def _over(self, newcomer: _Newcomer) -> None:
        self._say(f"{newcomer.place}: {newcomer.machine.outcome}")
        if newcomer.machine.joined is not None:
            self._on_joined(newcomer.machine.joined)


class _Newcomer(asyncio.Protocol):
    def __init__(
        self, machine: Answering, on_over: Callable[[_Newcomer], None], on_gone: Callable[[_Newcomer], None]
    ) -> None:
        self.machine = machine
        self.place = "?"
        self._on_over = on_over
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.call_later(MOST_S, self.hang_up)
        self._silence = self._loop.call_later(SILENT_S, self.hang_up)
        self._transport: asyncio.Transport | None = None
        self._is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.place = place_of(transport.get_extra_info("peername"))

    def data_received(self, data: bytes) -> None:
        if self._is_over or self._transport is None:
            return
        self._silence.cancel()
        self._silence = self._loop.call_later(SILENT_S, self.hang_up)
        self._transport.write(self.machine.receive(data, time.time()))
        if self.machine.is_over:
            self._end()
            self._until = self._loop.call_later(CLOSE_S, self.hang_up)
            self._transport.close()  # which waits until the other end has closed, too

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self._until.cancel()
        self._on_gone(self)

    def hang_up(self) -> None:
        """It takes too long."""
        if self._transport is not None:
            self._transport.abort()
        self._end()
        self._on_gone(self)

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._until.cancel()
            self._silence.cancel()
            self.machine.end(time.time())
            self._on_over(self)
