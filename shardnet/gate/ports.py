"""The loopback ports of this host behind which the agents of members are: of its own ones, which other hosts reach
through the gate, and of other hosts' ones, for which the gate listens at the same number."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from shardnet.gate.destinations import Member

LOOPBACK = "127.0.0.1"
BACKLOG = 128
Entrance = Callable[[Member], asyncio.Protocol]
"""What serves a connection of this host to a member of another one."""


class Ports:
    """By the ids of the members, which are never used again. They outlive the door: a member that comes back to it is
    told only what has changed meanwhile.

    Args:
        own_host: what the door calls this one.
        loopback: the address on which agents listen.
    """

    def __init__(self, own_host: str, entrance: Entrance, loopback: str) -> None:
        self._own_host = own_host
        self._entrance = entrance
        self._loopback = loopback
        self._own: dict[int, int] = {}
        self._resting: dict[int, int] = {}
        """Of members of this host that are not connected to the door."""
        self._listening: dict[int, int] = {}
        self._servers: dict[int, asyncio.Task[asyncio.Server]] = {}
        self._gone: set[int] = set()

    def add(self, member_id: int, port: int, host: str) -> bool:
        """Let a member be reached. Who connects from now on is served, be it a little later. False where its port is
        taken here."""
        if member_id in self._gone or self._own.get(member_id) == port:
            return True
        if host == self._own_host:
            self._own[member_id] = port
            return True
        if member_id in self._listening:
            return self._listening[member_id] == port
        listener = _listener(self._loopback, port)
        if listener is None:
            return False
        self._listening[member_id] = port
        serving = asyncio.get_running_loop().create_server(lambda: self._entrance(Member(host, port)), sock=listener)
        self._servers[member_id] = asyncio.ensure_future(serving)
        return True

    def rest(self, member_id: int) -> None:
        """A member of this host has left the door, or was not let in: its port may be another program's by now."""
        if member_id in self._own:
            self._resting[member_id] = self._own.pop(member_id)

    def wake(self, member_id: int) -> None:
        """It has come back to the door."""
        if member_id in self._resting:
            self._own[member_id] = self._resting.pop(member_id)

    def drop(self, member_id: int) -> None:
        """A member is gone for good. What is connected goes on until it ends."""
        self._gone.add(member_id)
        self._own.pop(member_id, None)
        self._resting.pop(member_id, None)
        self._listening.pop(member_id, None)
        serving = self._servers.pop(member_id, None)
        if serving is not None:
            serving.add_done_callback(_close)

    def is_own(self, port: int) -> bool:
        """Whether a member of this host is behind a port, so that others may come to it."""
        return port in self._own.values()


def _listener(host: str, port: int) -> socket.socket | None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        return None
    return listener


def _close(serving: asyncio.Task[asyncio.Server]) -> None:
    with suppress(OSError, asyncio.CancelledError):
        serving.result().close()
