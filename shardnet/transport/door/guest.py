"""One connection at the door, once it has shown that it may come in."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from shardnet.transport.door.messages import MOST_SAID_BYTES, Ping, StruckOff, length_in, pack, unpack
from shardnet.transport.door.roster import Roster

MOST_UNSENT_BYTES = 2**16
"""What waits for a member that does not read. It is told the rest when it reads again, at once."""
MOST_UNREAD_BYTES = 2**20
"""Of answers. Who asks so much and reads nothing is let go of."""
FAREWELL_S = 2.0
"""How long what was said last may take to leave."""


class Guest:
    """A member, or one who will be. All of it runs on the door's loop."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, process: str = "", host: str = ""
    ) -> None:
        self.id = 0
        """None yet."""
        self.process = process
        """The one that has connected, where that is known; see `process.identity`."""
        self.host = host
        """From which a gate carries it; empty for this one."""
        self.is_enlisting = False
        self.is_unreachable = False
        """Its port is taken on another host."""
        self.blocked_by = ""
        """Whose port is taken on its host."""
        self.heard = 0
        """The version of the roster that it has."""
        self._told = 0
        self._behind_since_s: float | None = None
        self._reader = reader
        self._writer = writer
        self._catching_up: asyncio.Task[None] | None = None
        self._asked: asyncio.Future[None] | None = None
        """Done when it shows the sign of life that it was asked for."""
        self.is_gone = False

    async def read(self) -> Any:
        """What it says next.

        Raises:
            EOFError: it is gone.
            OSError: the connection broke.
            Undecodable: this is none of our messages.
        """
        head = await self._reader.readexactly(4)
        return unpack(await self._reader.readexactly(length_in(head, MOST_SAID_BYTES)))

    def say(self, message: Any) -> None:
        """Write a message. Does not wait."""
        if self.is_gone:
            return
        self._writer.write(pack(message))
        if self._unsent() > MOST_UNREAD_BYTES + MOST_UNSENT_BYTES:
            self._writer.transport.abort()

    def tell(self, roster: Roster, now_s: float) -> None:
        """Write what has changed on the roster, or let it wait where the guest does not read."""
        if self._told == roster.kept or self._catching_up is not None:
            return
        if self.heard == self._told:
            self._behind_since_s = now_s
        if self._unsent() > MOST_UNSENT_BYTES:
            self._catching_up = asyncio.get_running_loop().create_task(self._catch_up(roster))
            return
        self.say(roster.changes_since(self._told))
        self._told = roster.kept

    def resume(self, member_id: int, version: int) -> None:
        """It is a member that was here before, and has that version."""
        self.id = member_id
        self.heard = self._told = version

    async def _catch_up(self, roster: Roster) -> None:
        with suppress(OSError):
            await self._writer.drain()
            self._catching_up = None
            self.tell(roster, asyncio.get_running_loop().time())

    async def caught_up(self) -> None:
        """Return when it was told all that there is."""
        if self._catching_up is not None:
            await asyncio.wait([self._catching_up])

    def hear(self, version: int) -> None:
        """It says which version it has."""
        self.heard = max(self.heard, min(version, self._told))
        if self.heard == self._told:
            self._behind_since_s = None

    def patience_s(self, now_s: float, most_s: float) -> float:
        """How much longer to wait for it to hear the news: it may have been silent for a while already."""
        return most_s if self._behind_since_s is None else self._behind_since_s + most_s - now_s

    async def answers(self, most_s: float) -> bool:
        """Whether it shows a sign of life. False also where it goes meanwhile."""
        if self._asked is None:
            self._asked = asyncio.get_running_loop().create_future()
            self.say(Ping())
        spoken, _ = await asyncio.wait([self._asked], timeout=most_s)
        return bool(spoken) and not self.is_gone

    def pong(self) -> None:
        """A sign of life."""
        if self._asked is not None:
            self._asked.set_result(None)
            self._asked = None

    async def farewell(self) -> None:
        """Tell it that it was struck off, and let go of it."""
        self.say(StruckOff())
        self._writer.close()
        with suppress(asyncio.TimeoutError, OSError):
            await asyncio.wait_for(self._writer.wait_closed(), FAREWELL_S)
        self._writer.transport.abort()

    def end(self) -> None:
        """It is gone: nobody waits for it any more."""
        self.is_gone = True
        self.pong()
        self._writer.transport.abort()
        if self._catching_up is not None:
            self._catching_up.cancel()

    def _unsent(self) -> int:
        return self._writer.transport.get_write_buffer_size()
