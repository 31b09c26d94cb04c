"""Which addresses this host has now, and when that changes: a Wi-Fi that is out of reach or back, another network.

Linux tells of changes by itself (rtnetlink). Where it does not, as to an app of Android, somebody looks every second.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress

from shardnet.gate.own_addresses import beyond_loopback, is_in_network
from shardnet.trust.addresses import Address

LOOK_S = 1.0
MOST_NEWS_BYTES = 2**16
_LINKS, _IPV4_ADDRESSES, _IPV6_ADDRESSES = 0x1, 0x10, 0x100
"""From linux/rtnetlink.h, RTMGRP_: the socket module does not have them."""


class Network:
    """Looks from when it is made, on an event loop that runs, until it is closed."""

    def __init__(self) -> None:
        self._own = beyond_loopback()
        self.on_change: list[Callable[[], object]] = []
        """Called when the addresses are others."""
        self._looking = asyncio.ensure_future(self._look())
        self._was_reached = self._is_in_network

    @property
    def addresses(self) -> frozenset[str]:
        """As sockets have them."""
        return frozenset(each.address.partition("%")[0] for each in self._own)

    @property
    def is_cut_off(self) -> bool:
        """Whether there is no network now, and was one before: what is dialled now would only keep the kernel waiting
        for an answer from nowhere when there is one again."""
        return self._was_reached and not self._is_in_network

    @property
    def _is_in_network(self) -> bool:
        return any(map(is_in_network, self._own))

    def require(self, address: Address) -> None:
        """
        Raises:
            OSError: it cannot be reached now.
        """
        if self.is_cut_off and address.host not in ("127.0.0.1", "::1", "localhost"):
            raise OSError("this host is in no network")

    def close(self) -> None:
        """Look no more."""
        self._looking.cancel()

    async def _look(self) -> None:
        with ExitStack() as ends:
            news = _news()
            if news is not None:
                ends.enter_context(news)
            while True:
                await _wait(news)
                own = beyond_loopback()
                if own != self._own:
                    self._own = own
                    self._was_reached = self._was_reached or self._is_in_network
                    for call in tuple(self.on_change):
                        call()


def _news() -> socket.socket | None:
    """Where the kernel tells of interfaces and addresses; None where it does not."""
    if not hasattr(socket, "AF_NETLINK"):
        return None
    with suppress(OSError):
        news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            news.setblocking(False)
            news.bind((0, _LINKS | _IPV4_ADDRESSES | _IPV6_ADDRESSES))
            return news
        except OSError:
            news.close()
    return None


async def _wait(news: socket.socket | None) -> None:
    """Until something may have changed."""
    if news is not None:
        with suppress(OSError):  # more was told than there was room for
            await asyncio.get_running_loop().sock_recv(news, MOST_NEWS_BYTES)
            return
    await asyncio.sleep(LOOK_S)
