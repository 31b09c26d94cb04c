"""To get through to a gate that may be out of reach, as soon as it is back.

A TCP connection that was begun while nothing got through is tried again by the kernel after 1, 3, 7 ... seconds, so it
may sleep for seconds after the network is back. So another one is begun beside it every half second, and the first that
gets through counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from shardnet.errors import ShardnetError
from shardnet.tunnel import frames
from shardnet.tunnel.connection import Connection
from shardnet.tunnel.frames import BadFrame, Frame, Kind
from shardnet.tunnel.greeting import GateOfOtherVersion, Greeting, LinkRefused, draw_identity, pack_greeting
from shardnet.tunnel.session import LinkSession
from shardnet.versions import unpacked

Connect = Callable[[], Awaitable[Connection]]
"""Opens a connection to the other gate, TLS and all. It may raise OSError, after which it is asked again."""
FIRST_PAUSE_S = 0.05
MOST_PAUSE_S = 0.5
ATTEMPT_S = 8.0
"""How long one attempt may take."""


async def first_through(attempts: Sequence[Coroutine[Any, Any, Connection]]) -> Connection:
    """Dial in several ways at once: the first connection that gets through.

    Raises:
        OSError: none does; or whatever else one of them says.
    """
    trying = {asyncio.ensure_future(each) for each in attempts}
    error: OSError = OSError("nothing is known that could be dialled")
    try:
        while trying:
            done, _ = await asyncio.wait(trying, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                trying.remove(attempt)
                try:
                    return attempt.result()
                except OSError as failed:
                    error = failed
        raise error
    finally:
        _give_up(trying)


class Pauses:
    """Between the beginnings of two attempts: each twice as long as the one before, up to a limit."""

    def __init__(self, first_s: float = FIRST_PAUSE_S, most_s: float = MOST_PAUSE_S) -> None:
        self._first_s = self._next_s = first_s
        self._most_s = most_s
        self._pause: asyncio.Future[None] | None = None

    def begin(self) -> asyncio.Future[None]:
        """The next one, which is done when it is over."""
        loop = asyncio.get_running_loop()
        self._pause = loop.create_future()
        loop.call_later(self._next_s, _end, self._pause)
        self._next_s = min(2 * self._next_s, self._most_s)
        return self._pause

    def hurry(self) -> None:
        """End the present one: the next attempt may get through. Those after it come quickly again."""
        self._next_s = self._first_s
        if self._pause is not None:
            _end(self._pause)


def _end(pause: asyncio.Future[None]) -> None:
    if not pause.done():
        pause.set_result(None)


async def dial_again(connect: Connect, pauses: Pauses) -> Connection:
    """The first connection that gets through, however long that takes.

    Raises:
        ShardnetError: `connect` says that it is of no use.
    """
    loop = asyncio.get_running_loop()
    attempts: set[asyncio.Future[Connection]] = set()
    try:
        while True:
            attempt = asyncio.ensure_future(connect())
            attempts.add(attempt)
            overdue = loop.call_later(ATTEMPT_S, attempt.cancel)
            attempt.add_done_callback(lambda _, overdue=overdue: overdue.cancel())  # type: ignore[misc]
            connection = await _first_of(attempts, pauses.begin())
            if connection is not None:
                return connection
    finally:
        _give_up(attempts)


async def _first_of(attempts: set[asyncio.Future[Connection]], pause: asyncio.Future[None]) -> Connection | None:
    """Wait until the pause is over at the most, and take those that have failed out."""
    while not pause.done():
        waited: list[asyncio.Future[Any]] = [*attempts, pause]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        for attempt in [each for each in attempts if each.done()]:
            attempts.remove(attempt)
            with suppress(OSError, asyncio.TimeoutError, asyncio.CancelledError):
                return attempt.result()
    return None


def _give_up(attempts: Collection[asyncio.Future[Connection]]) -> None:
    """They are not needed any more."""
    for attempt in attempts:
        attempt.cancel()
        attempt.add_done_callback(_close)


def _close(attempt: asyncio.Future[Connection]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().abort()


class GreetingFailed(OSError):
    """A connection broke, or gave no answer, before the other gate had welcomed it. Another one may be."""


class Dialler:
    """Sees to it that a link session is attached."""

    def __init__(self, session: LinkSession, connect: Connect, gate: bytes, greet_s: float) -> None:
        """Args:
        connect: opens a connection to the gate of the session's peer.
        gate: our own gate, as `greeting` has it.
        greet_s: how long the other gate may take to answer a greeting.
        """
        self._session = session
        self._connect = connect
        self._gate = gate
        self._greet_s = greet_s
        self._identity = draw_identity()
        self._num_attempts = 0
        self._pauses = Pauses()
        self._answer: _Answer | None = None
        self._greeting = asyncio.Lock()

    async def dial(self) -> None:
        """Attach the session to a connection, however long that takes.

        Raises:
            ShardnetError: it can never be; LinkRefused where the other gate says so, GateOfOtherVersion where the two
                cannot understand each other.
        """
        self._pauses = Pauses()
        while True:
            connection = await dial_again(self._connect, self._pauses)
            if self._session.is_attached and not self._session.vigil.is_connection_needed:
                connection.abort()  # the one that it has answers again
                return
            try:
                await self.greet(connection)
                return
            except GreetingFailed:
                await self._pauses.begin()

    async def run(self) -> None:
        """Do so whenever it has none, or one that does not answer at once, until it is over."""
        while not self._session.why_over:
            await self._session.vigil.wait_needed()
            try:
                await self.dial()
            except ShardnetError as error:
                self._session.end(str(error))

    def hurry(self) -> None:
        """The network has changed: where it is being dialled, begin anew at once."""
        self._pauses.hurry()
        if self._answer is not None:
            self._answer.connection_fails("the network has changed")

    async def greet(self, connection: Connection) -> None:
        """Attach the session to a connection, or end that.

        Raises:
            GreetingFailed, LinkRefused: the other end does not take it.
        """
        async with self._greeting:  # one after the other: of two, only the later one counts
            try:
                await self._greet(connection)
            except BaseException:
                connection.abort()
                raise

    async def _greet(self, connection: Connection) -> None:
        self._num_attempts += 1
        is_new = self._session.counts.num_connections == 0
        greeting = pack_greeting(Greeting(self._identity, self._num_attempts, is_new, self._gate))
        connection.write(frames.pack(Kind.GREETING, 0, self._session.num_received, greeting))
        answer = self._answer = _Answer(self._session)
        connection.belong_to(answer)
        try:
            await asyncio.wait_for(answer.is_welcome, self._greet_s)
        except asyncio.TimeoutError:
            raise GreetingFailed("the other gate did not answer a greeting") from None
        finally:
            self._answer = None


class _Answer:
    """Owns a connection over which a greeting went until the answer comes."""

    def __init__(self, session: LinkSession) -> None:
        self._session = session
        self.is_welcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def frames_came(self, connection: Connection, came: list[Frame]) -> None:
        first = came[0]
        if self.is_welcome.done():
            return
        if first.kind is Kind.REFUSED:
            self.is_welcome.set_exception(LinkRefused(frames.reason_in(first)))
        elif first.kind is Kind.OTHER_VERSION:
            self.is_welcome.set_exception(GateOfOtherVersion(unpacked(first.payload), self._session.peer))
        elif first.kind is not Kind.WELCOME:
            raise BadFrame(f"a greeting is answered with a frame of the kind {first.kind.name}")
        elif self._session.why_over:
            self.is_welcome.set_result(None)
            connection.write(frames.pack_reason(Kind.GOODBYE, self._session.why_over))
            connection.close()
        else:
            self.is_welcome.set_result(None)
            self._session.attach(connection, first.number)
            self._session.frames_came(connection, came[1:])

    def can_write(self, connection: Connection) -> None: ...

    def connection_broke(self, connection: Connection, error: Exception | None) -> None:
        self.connection_fails(str(error))

    def connection_fails(self, why: str) -> None:
        """It is of no use."""
        if not self.is_welcome.done():
            self.is_welcome.set_exception(GreetingFailed(why))
