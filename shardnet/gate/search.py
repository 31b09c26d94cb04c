"""Asks the local network and other hosts where the coordinator's gate is, while it is not reached where it was.

Whoever answers need not know: what is found is dialled once, and is believed when it shows the certificate.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from shardnet.discovery.asking import look
from shardnet.discovery.choosing import gates_of
from shardnet.discovery.datagrams import Announced
from shardnet.gate.own_addresses import own_addresses
from shardnet.gate.ports import LOOPBACK
from shardnet.process.tasks import Tasks
from shardnet.process.threads import on_thread
from shardnet.trust.addresses import Address

Gates = Sequence[Address]
EVERY_S = 10.0
"""At most so often."""


class Search:
    """On an event loop.

    Args:
        cluster: the id of the cluster.
        ask_hosts: asks other hosts, each for itself.
        on_found: given where it may be, as often as somebody says so.
    """

    def __init__(
        self,
        cluster: str,
        ask_hosts: Callable[[], Sequence[Coroutine[Any, Any, Gates]]],
        on_found: Callable[[Gates], object],
    ) -> None:
        self._cluster = cluster
        self._ask_hosts = ask_hosts
        self._on_found = on_found
        self._not_before_s = 0.0
        self._asking = Tasks()

    def begin(self) -> None:
        """Look, unless that was begun a moment ago."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._not_before_s:
            self._not_before_s = now_s + EVERY_S
            for asked in (self._ask_network(), *self._ask_hosts()):
                self._asking.start(self._hear(asked))

    def close(self) -> None:
        """Tell nothing more."""
        self._asking.cancel()

    async def _hear(self, asked: Coroutine[Any, Any, Gates]) -> None:
        gates = await asked
        if gates:
            self._on_found(gates)

    async def _ask_network(self) -> Gates:
        looking = asyncio.wrap_future(on_thread("shardnet-search", self._heard))
        return gates_of(await asyncio.shield(looking), self._cluster)  # the thread goes on where nobody waits

    def _heard(self) -> list[Announced]:
        own = dict.fromkeys([*own_addresses(socket.AF_INET), LOOPBACK])
        return look(list(own), lambda heard: bool(gates_of(heard, self._cluster)))
