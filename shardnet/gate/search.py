"""Asks the local network where the coordinator's gate is, while it is not reached where it was.

Whoever answers need not be it: what is found is dialled once, and is believed when it shows the certificate.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

from shardnet.discovery.asking import look
from shardnet.discovery.choosing import gates_of
from shardnet.discovery.datagrams import Announced
from shardnet.gate.own_addresses import own_addresses
from shardnet.gate.ports import LOOPBACK
from shardnet.process.threads import on_thread
from shardnet.trust.addresses import Address

EVERY_S = 10.0
"""At most so often."""


class Search:
    """On an event loop.

    Args:
        cluster: the id of the cluster.
        on_found: given where it may be, as often as somebody says so.
    """

    def __init__(self, cluster: str, on_found: Callable[[Sequence[Address]], object]) -> None:
        self._cluster = cluster
        self._on_found = on_found
        self._not_before_s = 0.0
        self._looking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Look, unless that was begun a moment ago."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._not_before_s:
            self._not_before_s = now_s + EVERY_S
            self._looking = asyncio.ensure_future(self._look())

    def close(self) -> None:
        """Tell nothing more."""
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        looking = asyncio.wrap_future(on_thread("shardnet-search", self._heard))
        gates = gates_of(await asyncio.shield(looking), self._cluster)  # the thread goes on where nobody waits
        if gates:
            self._on_found(gates)

    def _heard(self) -> list[Announced]:
        own = dict.fromkeys([*own_addresses(socket.AF_INET), LOOPBACK])
        return look(list(own), lambda heard: bool(gates_of(heard, self._cluster)))
