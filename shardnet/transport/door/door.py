"""The door of a cluster: lets members in, and serves them the roster, on one thread of the process that opened it.

Who knocks has a few seconds to show that it may come in, and says no more than a few bytes in them; of those who are
being looked at there are few at a time, and the one who takes longest makes room. A connection that was let in *is* its
member's presence: when it closes, the member has left or died.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from shardnet.errors import UsageError
from shardnet.process.crowds import Crowds
from shardnet.process.forks import Birthplace
from shardnet.process.identity import process_behind
from shardnet.process.lasting import GATE
from shardnet.process.state_folder import StateFolder
from shardnet.transport.door.challenge import (
    DOOR,
    MEMBER,
    Exchange,
    greet,
    has_same_messages,
)
from shardnet.transport.door.desk import Desk
from shardnet.transport.door.greeting import is_greeting, version_in
from shardnet.transport.door.guest import Guest
from shardnet.transport.door.keeper import Keeper
from shardnet.transport.door.listening import Listener, listen_at, listen_for_user, listen_in, tend, where
from shardnet.transport.door.messages import GREETING_BYTES, MOST_SAID_BYTES, PROOF_BYTES, Carried, Carrying
from shardnet.transport.door.roster import Roster, new_roster
from shardnet.transport.door.roster_file import roster_in
from shardnet.transport.wire.values import Undecodable
from shardnet.versions import Version, why_not_together

Receive = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
KNOCK_S = 5.0
"""How long who knocks may take to show that it may come in."""
MOST_KNOCKING = 64
"""At the same time, of one crowd: those of this machine, or of one other host."""
CANCEL_AGAIN_S = 0.05
"""`wait_for` swallows a cancellation that comes with what it waits for (before Python 3.12)."""
AGAIN_S = 0.1
"""After which the door is tried again, when this process had no file left for a connection."""
MOST_VERSIONS = 8
"""Of which is said that they do not go with this one: who only greets may say anything, and devices knock again."""
_log = logging.getLogger(__name__)


class Door:
    """An open door. A context manager: leaving it closes the door, and members go on among themselves."""

    def __init__(
        self, listener: Listener, roster: Roster, folder: StateFolder | None = None, gate: Listener | None = None
    ) -> None:
        """Use `serve_door` instead."""
        self.endpoint = listener.endpoint
        """Where it is: "unix:PATH" or "HOST:PORT"."""
        self._listener = listener
        self._roster = roster
        self.folder = folder
        """Where the cluster lives on; None for one that ends with this process."""
        self._birthplace = Birthplace("this door")
        self._listeners = [listener] if gate is None else [listener, gate]
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet(each.socket for each in self._listeners)
        self._connections: set[asyncio.Task[None]] = set()
        """Held here: a loop forgets tasks that nobody holds."""
        self._knocking: Crowds[asyncio.Task[None]] = Crowds(MOST_KNOCKING)
        """Those of them that were not let in yet."""
        self._sent_away: set[Version] = set()
        """What does not go with this version, and was told so."""
        self._loop = asyncio.new_event_loop()
        self._is_closed = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="shardnet-door", daemon=True)
        self._thread.start()
        _open.add(self)

    @property
    def members(self) -> tuple[str, ...]:
        """The names of those that are on its roster now."""
        return tuple(member.name for member in self._roster.members)

    def close(self) -> None:
        """Close it. Safe to call twice."""
        if not self._birthplace.is_here:
            return
        with suppress(RuntimeError):  # it is closed already
            self._loop.call_soon_threadsafe(self._is_closed.set)
        self._thread.join()

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def let_go(self) -> None:
        """In a forked child: without its copies of the connections, or members would seem to live on in it."""
        for each in list(self._sockets):
            each.close()
        if self.folder is not None:
            self.folder.close()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()
            for each in self._listeners:
                each.socket.close()
                each.remove()
            if self.folder is not None:
                self.folder.close()

    async def _serve(self) -> None:
        for each in self._listeners:
            each.socket.setblocking(False)
        keeper = Keeper(self._roster, self.folder)
        desk = Desk(self._roster, keeper)
        desk.open()
        receivers = (self._receive, self._receive_at_gate)
        accepting = [
            self._loop.create_task(self._accept(each.socket, partial(receive, desk)))
            for each, receive in zip(self._listeners, receivers, strict=False)
        ]
        await self._is_closed.wait()
        desk.close()
        for task in accepting:
            task.cancel()
        while tasks := [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CANCEL_AGAIN_S)
        keeper.close()

    async def _accept(self, listener: socket.socket, receive: Receive) -> None:
        while True:
            await self._until_somebody_knocks(listener)
            try:
                connection, _ = listener.accept()
                connection.setblocking(False)
            except OSError:  # who knocked is gone again, or there is no file left
                await asyncio.sleep(AGAIN_S)
                continue
            self._sockets.add(connection)
            task = self._loop.create_task(self._look_at(connection, receive))
            task.add_done_callback(partial(self._end, connection))
            self._connections.add(task)
            self._make_room(self._knocking.add(task, str(listener.getsockname())))
            await asyncio.sleep(0)  # where many wait, they must not keep those who were let in from speaking

    def _make_room(self, task: asyncio.Task[None] | None) -> None:
        """Somebody has stood there for too long."""
        if task is not None:
            task.cancel()

    async def _until_somebody_knocks(self, listener: socket.socket) -> None:
        """`sock_accept` would do, but it loses who knocks while it is cancelled, and says so on standard error."""
        has_knocked = asyncio.Event()
        self._loop.add_reader(listener, has_knocked.set)
        try:
            await has_knocked.wait()
        finally:
            self._loop.remove_reader(listener)

    def _end(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        """A connection is over; its task may not even have begun."""
        self._connections.discard(task)
        self._knocking.remove(task)
        connection.close()

    async def _look_at(self, connection: socket.socket, receive: Receive) -> None:
        """Look at who knocks, and serve it until it goes."""
        writer = None
        try:
            tend(connection)
            reader, writer = await asyncio.open_connection(sock=connection, limit=MOST_SAID_BYTES)
            await receive(reader, writer)
        except (OSError, EOFError, Undecodable, asyncio.TimeoutError):
            pass  # whoever it was is gone, or speaks another language
        finally:
            if writer is not None:
                writer.transport.abort()

    async def _receive(self, desk: Desk, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_let_in = await asyncio.wait_for(self._is_let_in(reader, writer), KNOCK_S)
        self._is_looked_at()
        if is_let_in:
            await desk.serve(Guest(reader, writer, process_behind(writer.get_extra_info("socket"))))

    async def _receive_at_gate(self, desk: Desk, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a gate, or whom it carries."""
        gate = Guest(reader, writer)
        said = await asyncio.wait_for(gate.read(), KNOCK_S)
        if type(said) is Carrying:
            self._is_looked_at()
            await desk.serve_gate(gate)
        elif type(said) is Carried and said.host:
            this = asyncio.current_task()
            assert this is not None
            self._make_room(self._knocking.add(this, f"host {said.host}"))
            is_let_in = await asyncio.wait_for(self._is_let_in(reader, writer), KNOCK_S)
            self._is_looked_at()
            if is_let_in:
                await desk.serve(Guest(reader, writer, host=said.host))

    def _is_looked_at(self) -> None:
        """Whoever knocked has been looked at: nobody makes room for others any more."""
        this = asyncio.current_task()
        assert this is not None
        self._knocking.remove(this)

    async def _is_let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        knock = await reader.readexactly(GREETING_BYTES)
        if not is_greeting(knock):
            return False
        there = where(writer.get_extra_info("sockname"))
        exchange = Exchange(self._listener.key, there, knock, answer=greet())
        writer.write(exchange.answer + exchange.proof(DOOR))
        await writer.drain()
        if not has_same_messages(knock):
            self._say_once(version_in(knock))
            writer.close()
            await writer.wait_closed()
            return False
        return exchange.is_proven(MEMBER, await reader.readexactly(PROOF_BYTES))

    def _say_once(self, theirs: Version) -> None:
        """Say that somebody was sent away whose version does not go with this one."""
        if theirs not in self._sent_away and len(self._sent_away) < MOST_VERSIONS:
            self._sent_away.add(theirs)
            _log.warning("%s", why_not_together(theirs, "A device that wants to join"))


def serve_door(
    host: str | None = None,
    port: int = 0,
    *,
    beyond_loopback: bool = False,
    folder: Path | None = None,
    is_anew: bool = False,
) -> Door:
    """Open the door of a cluster. It is open until it is closed.

    Args:
        host: address to listen on. None opens a door that only this user's processes on this machine can reach.
        port: 0 chooses a free one.
        beyond_loopback: also at addresses that others than this machine may reach, as in a network namespace where
            nobody else is. What follows the proofs of the key is not encrypted.
        folder: where the cluster lives on when this process ends; made where there is none. The door is in it, so that
            it is found at the same place again, and there is no `host`. One process at a time opens it.
        is_anew: whether the members that the folder knows are struck off, and join anew where they are there still.
            Else they are members until they have not come back for a while.

    Raises:
        UsageError: the port is taken, or the address is not one of this device or not one that is allowed; the folder
            is not this user's alone, cannot be used, another process has opened it, or its roster is damaged.
    """
    if folder is None:
        listener = listen_for_user() if host is None else listen_at(host, port, beyond_loopback=beyond_loopback)
        return Door(listener, new_roster())
    if host is not None:
        raise UsageError("A door is at an address or in a folder. Name one of them.")
    held = StateFolder(folder)
    try:
        with ExitStack() as ends:
            roster = roster_in(held.path)
            for member in roster.members if is_anew else ():
                roster.strike(member.id)
            listener = listen_in(held)
            ends.callback(listener.remove)
            ends.callback(listener.socket.close)
            door = Door(listener, roster, held, listen_in(held, GATE))
            ends.pop_all()
            return door
    except BaseException:
        held.close()
        raise


_open: weakref.WeakSet[Door] = weakref.WeakSet()


def _let_go() -> None:
    for door in list(_open):
        door.let_go()


os.register_at_fork(after_in_child=_let_go)
