"""A connection that another gate has opened, until it has said which link session it is for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shardnet.tunnel import frames
from shardnet.tunnel.connection import Connection
from shardnet.tunnel.frames import BadFrame, Frame, Kind
from shardnet.tunnel.greeting import GateOfOtherVersion, Greeting, LinkRefused, unpack_greeting
from shardnet.tunnel.session import LinkSession
from shardnet.versions import OWN, packed


class Arrival:
    """Owns the connection for so long."""

    def __init__(
        self,
        connection: Connection,
        peer: str,
        greet_s: float,
        session_of: Callable[[str, Greeting], LinkSession],
        when_gone: Callable[[Arrival], None],
        on_refused: Callable[[str, str], object],
    ) -> None:
        """Args:
        peer: whose gate it is; that is proven.
        greet_s: how long the greeting may take.
        session_of: for peer and greeting, the link session; or it raises LinkRefused.
        when_gone: called when the connection has another owner, or is over.
        on_refused: called with peer and reason where it has said what nobody may.
        """
        self._connection = connection
        self._peer = peer
        self._session_of = session_of
        self._when_gone = when_gone
        self._on_refused = on_refused
        self._overdue = asyncio.get_running_loop().call_later(greet_s, self.give_up)
        connection.belong_to(self)

    @property
    def peer(self) -> str:
        """Whose gate it is."""
        return self._peer

    def refuse(self, reason: str) -> None:
        """Say why, and close."""
        self._leave()
        self._connection.write(frames.pack_reason(Kind.REFUSED, reason))
        self._connection.close()

    def _say_own_version(self) -> None:
        """Who dials knows best what goes with its own."""
        self._leave()
        self._connection.write(frames.pack(Kind.OTHER_VERSION, payload=packed(OWN)))
        self._connection.close()

    def give_up(self) -> None:
        """End it without a word: the greeting may be under way, and a refusal would end the link session."""
        self._leave()
        self._connection.abort()

    def frames_came(self, connection: Connection, came: list[Frame]) -> None:
        first = came[0]
        try:
            if first.kind is not Kind.GREETING:
                raise BadFrame(f"a connection begins with a frame of the kind {first.kind.name}")
            session = self._session_of(self._peer, unpack_greeting(first.payload, self._peer))
        except (BadFrame, LinkRefused) as error:
            self.refuse(str(error))
            self._on_refused(self._peer, str(error))
            return
        except GateOfOtherVersion as error:
            self._say_own_version()
            self._on_refused(self._peer, str(error))
            return
        self._leave()
        session.welcome(connection, first.number)
        session.frames_came(connection, came[1:])

    def can_write(self, connection: Connection) -> None: ...

    def connection_broke(self, connection: Connection, error: Exception | None) -> None:
        self._leave()

    def _leave(self) -> None:
        self._overdue.cancel()
        self._when_gone(self)
