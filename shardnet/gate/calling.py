"""The coordinator's host has another address: its gate dials the others, where they can be, and says so.

They dial it, at addresses that they were given, and cannot find it where none of these is right any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from shardnet.gate.hosts import MOST_ADDRESSES, pack_addresses, unpack_addresses
from shardnet.trust.addresses import Address
from shardnet.trust.contexts import CALL, client_context, server_mark
from shardnet.trust.identity import Identity
from shardnet.trust.peers import peer_of
from shardnet.tunnel.dialling import Pauses

CALL_S = 5.0
"""How long a call may take."""
MOST_PAUSE_S = 5.0
CALL_FOR_S = 600.0
"""Who has not been there for so long has another address by now, or is gone."""
MOST_CALL_BYTES = MOST_ADDRESSES * 300


class Caller:
    """At the coordinator's gate.

    Args:
        identity: of this host.
        gates: where this gate can be dialled now.
        out_of_reach: the hosts that need a call, and where each can be dialled.
        counts: whether a certificate, by its serial number, was not revoked.
    """

    def __init__(
        self,
        identity: Callable[[], Identity],
        gates: Callable[[], Sequence[Address]],
        out_of_reach: Callable[[], Mapping[str, Sequence[Address]]],
        counts: Callable[[int], bool],
    ) -> None:
        self._identity = identity
        self._gates = gates
        self._out_of_reach = out_of_reach
        self._counts = counts
        self._calling: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Call all who are out of reach, again and again, until nobody is, or for ten minutes."""
        self.close()
        self._calling = asyncio.ensure_future(self._call_all())

    def close(self) -> None:
        """Call nobody any more."""
        if self._calling is not None:
            self._calling.cancel()

    async def _call_all(self) -> None:
        pauses = Pauses(most_s=MOST_PAUSE_S)
        until_s = time.monotonic() + CALL_FOR_S
        while time.monotonic() < until_s and (wanted := self._out_of_reach()):
            if self._gates():
                await asyncio.gather(*(self._call(host, address) for host in wanted for address in wanted[host]))
            await pauses.begin()

    async def _call(self, host: str, address: Address) -> None:
        with suppress(OSError, ValueError, asyncio.TimeoutError):
            await asyncio.wait_for(self._say(host, address), CALL_S)

    async def _say(self, host: str, address: Address) -> None:
        identity = self._identity()
        reader, writer = await asyncio.open_connection(
            *address, ssl=client_context(identity, CALL), server_hostname=server_mark(identity, host)
        )
        try:
            peer = peer_of(writer.get_extra_info("ssl_object"))
            if peer is not None and self._counts(peer.serial):
                writer.write(pack_addresses(self._gates()))
                await reader.read(1)  # it says nothing, and hangs up
        finally:
            writer.transport.abort()


class Called(asyncio.Protocol):
    """At another gate: a connection of the coordinator's, from its handshake on.

    Args:
        hear: told where that one can be dialled.
    """

    def __init__(self, hear: Callable[[Sequence[Address]], object]) -> None:
        self._hear = hear
        self._said = bytearray()
        self._transport: asyncio.Transport | None = None
        self._overdue = asyncio.get_running_loop().call_later(CALL_S, self._hang_up)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._said += data
        if b"\n" in self._said:
            with suppress(ValueError):
                self._hear(unpack_addresses(bytes(self._said)))
            self._hang_up()
        elif len(self._said) > MOST_CALL_BYTES:
            self._hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._overdue.cancel()
        self._transport = None

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()
