"""Tells each host where the others can be dialled, as long as it is linked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from shardnet.gate.calling import MOST_CALL_BYTES
from shardnet.gate.hosts import Hosts, pack_hosts, unpack_addresses
from shardnet.process.crowds import Crowds
from shardnet.trust.addresses import Address
from shardnet.tunnel.session import LinkSession
from shardnet.tunnel.stream import Stream

MOST_OF_ONE = 4
"""Streams on which one host may say where it is: it needs one, and while its gate is started again two."""


class Switchboard:
    """At the coordinator's gate.

    Args:
        revoked: the serial numbers of certificates that do not count any more.
        gates: where the coordinator's gate can be dialled.
    """

    def __init__(self, revoked: Callable[[], frozenset[int]], gates: Callable[[], Sequence[Address]]) -> None:
        self._revoked = revoked
        self._gates = gates
        self.dialled_at: dict[str, tuple[Address, ...]] = {}
        """What each host has said last, also where it says nothing any more."""
        self._lines: dict[_Line, tuple[Address, ...]] = {}
        """With what each host has said last."""
        self._there: Crowds[_Line] = Crowds(MOST_OF_ONE)

    def take(self, session: LinkSession, stream: Stream) -> None:
        """Hear from a host on a stream, and tell it of all."""
        line = _Line(session.peer, self)
        makes_room = self._there.add(line, line.host)
        if makes_room is not None:
            makes_room.hang_up()
        stream.begin(line)

    @property
    def addresses(self) -> dict[str, tuple[Address, ...]]:
        """Where each host can be dialled, as far as it has said so."""
        return {line.host: addresses for line, addresses in self._lines.items()}

    def tell(self) -> None:
        """Tell all what is so now."""
        told = pack_hosts(Hosts(self.addresses, self._revoked(), tuple(self._gates())))
        for line in self._lines:
            line.tell(told)

    def hear(self, line: _Line, addresses: tuple[Address, ...]) -> None:
        """A host can be dialled there."""
        if self._lines.get(line) != addresses:
            self._lines[line] = self.dialled_at[line.host] = addresses
            self.tell()

    def forget(self, host: str) -> None:
        """It was shut out, whatever letters its name is typed in."""
        for known in [each for each in self.dialled_at if each.lower() == host.lower()]:
            del self.dialled_at[known]

    def lose(self, line: _Line) -> None:
        """A host says nothing any more."""
        self._there.remove(line)
        if self._lines.pop(line, None) is not None:
            self.tell()


class _Line(asyncio.Protocol):
    def __init__(self, host: str, switchboard: Switchboard) -> None:
        self.host = host
        self._switchboard = switchboard
        self._unread = b""
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._untold = b""
        """The last of what it was not told while it did not read; what came before that is of no use any more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Of lines that come together only the last counts: all hosts are told of each that does."""
        lines, end, self._unread = (self._unread + data).rpartition(b"\n")
        try:
            if end:
                self._switchboard.hear(self, unpack_addresses(lines.rpartition(b"\n")[2]))
            if len(self._unread) > MOST_CALL_BYTES:
                raise ValueError("such a line is shorter")
        except ValueError:
            self.hang_up()

    def tell(self, told: bytes) -> None:
        if self._is_paused:
            self._untold = told
        elif self._transport is not None:
            self._transport.write(told)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        untold, self._untold = self._untold, b""
        if untold:
            self.tell(untold)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._switchboard.lose(self)

    def hang_up(self) -> None:
        """Hear and tell nothing more."""
        if self._transport is not None:
            self._transport.abort()
