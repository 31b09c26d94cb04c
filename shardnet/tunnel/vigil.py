"""Looks after the connection of a link session: asks it for a sign of life, and gives it up where none comes.

One that does not answer at once is *doubted*: another one may be dialled beside it, and whichever carries first counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

from shardnet.tunnel.attachment import Attachment
from shardnet.tunnel.connection import Connection
from shardnet.tunnel.limits import Limits
from shardnet.tunnel.liveness import Look


class Vigil:
    """Of one link session.

    Args:
        is_used: whether it has streams.
        give_up: called with why the connection is of no use.
    """

    def __init__(self, limits: Limits, is_used: Callable[[], bool], give_up: Callable[[str], object]) -> None:
        self._limits = limits
        self._is_used = is_used
        self._give_up = give_up
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._attachment = Attachment(limits, self._loop.time())
        self._timer: asyncio.TimerHandle | None = None
        self._needed = asyncio.Event()

    @property
    def is_connection_needed(self) -> bool:
        """Whether there was one, and it is gone or doubted."""
        return self._needed.is_set()

    @property
    def is_carried(self) -> bool:
        """Whether the connection is a stream of another link session."""
        return self._connection is not None and self._connection.is_carried

    async def wait_needed(self) -> None:
        """Until that is so."""
        await self._needed.wait()

    def begin(self, connection: Connection, attachment: Attachment) -> None:
        """There is another connection."""
        self._connection = connection
        self._attachment = attachment
        self._needed.clear()
        self.look_soon()

    def lost(self) -> None:
        """There is none any more."""
        self.end()
        self._needed.set()

    def end(self) -> None:
        """Look no more."""
        self._connection = None
        if self._timer is not None:
            self._timer.cancel()

    def heard(self) -> None:
        """Something has come over the connection."""
        self._attachment.heard()
        self._needed.clear()

    def look_soon(self) -> None:
        """Within the time that is usual: it may have been idle, and be used now."""
        if self._connection is not None:
            self._look_after(self._ask_after_s / 2)

    def leave_unless_at(self, addresses: Collection[str]) -> None:
        """This host has these addresses now, and no others."""
        if self._connection is not None and not self._connection.is_from(addresses):
            self._give_up("this host has left that network")

    def ask_now(self) -> None:
        """A network on its way may be another one."""
        if self._connection is None:
            return
        self._connection.write(self._attachment.ask_at_once(self._loop.time()))
        self._look_after(self._limits.doubt_s)

    @property
    def _ask_after_s(self) -> float:
        return self._limits.ask_after_s if self._is_used() else self._limits.idle_ask_after_s

    def _look_after(self, wait_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(wait_s, self._look)

    def _look(self) -> None:
        assert self._connection is not None
        if time.time() >= self._connection.until_s:
            self._give_up("the certificate at its other end has expired")
            return
        look = self._attachment.look(self._loop.time(), self._ask_after_s)
        if look is Look.GIVE_UP:
            self._give_up("it did not answer")
            return
        if look is Look.ASK:
            self._connection.write(self._attachment.ask(self._loop.time()))
        elif look is Look.DOUBT:
            self._needed.set()
        self._look_after(self._ask_after_s / 2)
