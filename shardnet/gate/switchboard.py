"""Tells each host where the others can be dialled, as long as it is linked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from shardnet.gate.hosts import MOST_LINE_BYTES, Hosts, pack_hosts, unpack_addresses
from shardnet.trust.addresses import Address
from shardnet.tunnel.session import LinkSession
from shardnet.tunnel.stream import Stream


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

    def take(self, session: LinkSession, stream: Stream) -> None:
        """Hear from a host on a stream, and tell it of all."""
        stream.begin(_Line(session.peer, self))

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
        self._lines[line] = self.dialled_at[line.host] = addresses
        self.tell()

    def forget(self, host: str) -> None:
        """It was shut out, whatever letters its name is typed in."""
        for known in [each for each in self.dialled_at if each.lower() == host.lower()]:
            del self.dialled_at[known]

    def lose(self, line: _Line) -> None:
        """A host says nothing any more."""
        if self._lines.pop(line, None) is not None:
            self.tell()


class _Line(asyncio.Protocol):
    def __init__(self, host: str, switchboard: Switchboard) -> None:
        self.host = host
        self._switchboard = switchboard
        self._unread = bytearray()
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._untold = b""
        """The last of what it was not told while it did not read; what came before that is of no use any more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (end := self._unread.find(b"\n")) >= 0:
            line = bytes(self._unread[:end])
            del self._unread[: end + 1]
            try:
                self._switchboard.hear(self, unpack_addresses(line))
            except ValueError:
                self._hang_up()
                return
        if len(self._unread) > MOST_LINE_BYTES:
            self._hang_up()

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

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()
