"""Where gates meet: link sessions are begun and resumed, by who dials and by who is dialled."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from shardnet.errors import ClusterError
from shardnet.process.crowds import Crowds
from shardnet.tunnel.arrival import Arrival
from shardnet.tunnel.connection import Connection
from shardnet.tunnel.dialling import Connect, Dialler
from shardnet.tunnel.greeting import Greeting, LinkRefused, draw_gate
from shardnet.tunnel.limits import Limits
from shardnet.tunnel.session import LinkSession
from shardnet.tunnel.stream import Stream

MOST_SESSIONS = 8
"""That one host may have begun at the same time: it has one or two, and each may have 64 MiB lie here unread."""
MOST_OF_ONE = 32
"""Connections of one host that have not said what for: so many come at once when a network is back after a while."""
OnSession = Callable[[LinkSession], None]
OnStream = Callable[[LinkSession, Stream], None]


@dataclass
class _Accepted:
    """What a gate that was dialled knows of a link session, so that nobody else resumes it."""

    session: LinkSession
    greeting: Greeting
    """The latest."""


class Meeting:
    """All link sessions of one gate, on one event loop."""

    def __init__(
        self,
        on_session: OnSession,
        on_stream: OnStream,
        limits: Limits | None = None,
        on_refused: Callable[[str, str], object] = lambda peer, reason: None,
    ) -> None:
        """Args:
        on_session: called with each link session that another gate has begun.
        on_stream: called with each stream that another gate has opened. Something is to `begin` with it, now or
            later, or it is to be aborted.
        limits: of all link sessions.
        on_refused: called with who has asked for a link session that it may not have, and why not.
        """
        self._on_session = on_session
        self._on_stream = on_stream
        self._limits = limits or Limits()
        self._on_refused = on_refused
        self._gate = draw_gate()
        self._accepted: dict[bytes, _Accepted] = {}
        self._sessions: dict[LinkSession, asyncio.Task[None] | None] = {}
        """And what dials for it."""
        self._diallers: dict[LinkSession, Dialler] = {}
        self._arrivals: Crowds[Arrival] = Crowds(MOST_OF_ONE)

    @property
    def sessions(self) -> tuple[LinkSession, ...]:
        """Those that are not over."""
        return tuple(session for session in self._sessions if not session.why_over)

    def accept(self, transport: asyncio.Transport, peer: str, until_s: float = math.inf) -> None:
        """Take over a connection on which the gate of the host `peer` has proven that it is that, and said no more.

        Args:
            until_s: when the proof counts no more, in seconds since 1970.
        """
        connection = Connection(until_s)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        arrival = Arrival(
            *(connection, peer, self._limits.greet_s, self._session_of, self._arrivals.remove), self._on_refused
        )
        makes_room = self._arrivals.add(arrival, peer)
        if makes_room is not None:
            makes_room.give_up()

    async def dial(self, connect: Connect, peer: str) -> LinkSession:
        """Begin a link session, however long it takes to get through. From then on it dials by itself when it must.

        Raises:
            LinkRefused: the other gate does not want it.
            ShardnetError: `connect` says that it is of no use.
        """
        session = self._new_session(peer, is_dialler=True)
        dialler = self._diallers[session] = Dialler(session, connect, self._gate, self._limits.greet_s)
        try:
            await dialler.dial()
        except BaseException:
            session.end("it was never begun")
            raise
        if session.why_over:
            raise ClusterError(f"the link to {peer} is over: {session.why_over}")
        self._sessions[session] = asyncio.ensure_future(dialler.run())
        return session

    async def move(self, session: LinkSession, connection: Connection) -> None:
        """Go on over another connection to the same gate, which is better than the one that it has.

        Raises:
            GreetingFailed: it breaks, or gives no answer; the session stays where it was.
        """
        dialler = self._diallers.get(session)
        if dialler is None or session.why_over:
            connection.abort()
        else:
            await dialler.greet(connection)

    def network_changed(self, addresses: Collection[str]) -> None:
        """This host has these addresses now: leave connections from others, and dial at once where that is needed."""
        for session in self.sessions:
            session.vigil.leave_unless_at(addresses)
            self._hurry(session)

    def dials(self, session: LinkSession) -> bool:
        """Whether it was begun from here, so that it is dialled again where it has lost its connection."""
        return self._sessions.get(session) is not None

    def hurry(self, peer: str) -> None:
        """The host `peer` may be reached another way now."""
        for session in self.sessions:
            if session.peer == peer:
                self._hurry(session)

    def _hurry(self, session: LinkSession) -> None:
        session.vigil.ask_now()
        if session in self._diallers:
            self._diallers[session].hurry()

    def shut_out(self, host: str, reason: str) -> None:
        """Carry nothing more for a host, in whatever letters its name is spelled, and tell it why. Later connections of
        its are for who accepts them to refuse."""
        for session in self.sessions:
            if session.peer.lower() == host.lower():
                session.end(reason)
        for arrival in self._arrivals:
            if arrival.peer.lower() == host.lower():
                arrival.refuse(reason)

    def end(self, reason: str) -> None:
        """End all link sessions, in order."""
        for session in self.sessions:
            session.end(reason)
        for arrival in self._arrivals:
            arrival.refuse(reason)

    def _session_of(self, peer: str, greeting: Greeting) -> LinkSession:
        """Which link session a connection is for.

        Raises:
            LinkRefused: none that it may have.
        """
        known = self._accepted.get(greeting.identity.session)
        if known is None:
            return self._begin(peer, greeting)
        if known.session.peer != peer or not known.greeting.identity.is_same(greeting.identity):
            raise LinkRefused("this link session is somebody else's")
        if known.session.why_over:
            raise LinkRefused(known.session.why_over)
        if greeting.attempt <= known.greeting.attempt:
            raise LinkRefused("this connection comes after a later one")
        known.greeting = greeting
        return known.session

    def _begin(self, peer: str, greeting: Greeting) -> LinkSession:
        if not greeting.is_new:
            raise LinkRefused("this link session is over")
        for other in tuple(self._accepted.values()):
            if other.session.peer == peer and other.greeting.gate != greeting.gate:
                other.session.end(f"the gate of {peer} was started again")
        if sum(other.session.peer == peer for other in self._accepted.values()) >= MOST_SESSIONS:
            raise LinkRefused(f"there are {MOST_SESSIONS} links with {peer} already")
        session = self._new_session(peer, is_dialler=False)
        self._accepted[greeting.identity.session] = _Accepted(session, greeting)
        session.when_over(partial(self._accepted.pop, greeting.identity.session))
        self._on_session(session)
        return session

    def _new_session(self, peer: str, is_dialler: bool) -> LinkSession:
        session = LinkSession(peer, is_dialler, self._on_stream, self._limits)
        self._sessions[session] = None
        session.when_over(partial(self._forget, session))
        return session

    def _forget(self, session: LinkSession) -> None:
        self._diallers.pop(session, None)
        task = self._sessions.pop(session)
        if task is not None:
            task.cancel()
