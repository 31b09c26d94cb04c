"""What the door answers to its guests, and what it tells them. Runs on one event loop; knows no listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from shardnet.errors import ClusterError, JoinFailed, ShardnetError
from shardnet.transport.door import messages
from shardnet.transport.door.guest import Guest
from shardnet.transport.door.messages import Done, Draw, Enlist, Enter, Heard, Leave, Pong, Refused, Strike, Sync
from shardnet.transport.door.roster import Member, Roster
from shardnet.transport.failure import encode
from shardnet.transport.wire.values import Undecodable

NOTICE_S = 2.0
"""How long a join or an eviction waits for members that do not hear of it, or for the holder of a name."""
GOODBYE_S = 0.4
"""The same for a member that leaves."""
MOST_QUESTIONS = 64
"""Of one guest at the same time."""


class Desk:
    """The roster, and the guests that are on it."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._members: dict[int, Guest] = {}
        self._news_heard = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._serves: dict[type, Callable[[Guest, Any], Awaitable[int]]] = {
            Enter: self._enter,
            Enlist: self._enlist,
            Strike: self._strike,
            Leave: self._leave,
            Sync: self._sync,
            Draw: self._draw,
        }

    async def serve(self, guest: Guest) -> None:
        """Answer a guest for as long as it is there. Its end is that of its membership.

        Raises:
            EOFError, OSError, Undecodable: as `Guest.read`.
        """
        questions = asyncio.Semaphore(MOST_QUESTIONS)
        try:
            while True:
                said = await guest.read()
                if type(said) is Heard:
                    await self._hear(guest, said.version)
                elif type(said) is Pong:
                    guest.pong()
                elif type(said) in messages.SAID:
                    await questions.acquire()
                    self._start(self._answer(guest, said, questions))
                else:
                    raise Undecodable("this is for the door to say")
        finally:
            guest.end()
            self._part(guest)
            self._start(self._wake())

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, guest: Guest, question: Any, questions: asyncio.Semaphore) -> None:
        try:
            guest.say(Done(question.number, await self._serves[type(question)](guest, question)))
        except ShardnetError as error:
            kind, message, _ = encode(error, "The door", type(question).__name__)
            guest.say(Refused(question.number, kind, message))
        finally:
            questions.release()

    async def _enter(self, guest: Guest, _: Enter) -> int:
        if guest.id == 0:
            guest.id = self._roster.admit()
        return guest.id

    async def _enlist(self, guest: Guest, question: Enlist) -> int:
        newcomer = Member(guest.id, question.name, question.address)
        while (holder := self._try(guest, newcomer)) is not None:
            await self._challenge(holder)
        self._members[guest.id] = guest
        return await self._spread(guest, NOTICE_S)

    def _try(self, guest: Guest, newcomer: Member) -> Member | None:
        """Put a newcomer on the roster, or return who holds its name."""
        if guest.id == 0 or guest.is_gone:
            raise ClusterError("Who has no number, or is gone, cannot be on the roster.")
        return self._roster.enlist(newcomer)

    async def _challenge(self, holder: Member) -> None:
        """Return when the holder of a name is gone.

        Raises:
            JoinFailed: it lives, or may do so.
        """
        guest = self._members[holder.id]
        if await guest.answers(NOTICE_S):
            raise JoinFailed(f"A device called {holder.name} is in the cluster already. Choose another name.")
        if not guest.is_gone and holder.id in self._members:
            raise JoinFailed(
                f"A device called {holder.name} is in the cluster and does not answer. "
                "Wait until it is evicted, or choose another name."
            )

    async def _strike(self, guest: Guest, question: Strike) -> int:
        if guest.id not in self._members:
            raise ClusterError("Only members strike others off.")
        struck = self._members.get(question.id)
        if struck is not None:
            self._part(struck)
            self._start(struck.farewell())
        return await self._spread(guest, NOTICE_S)

    async def _leave(self, guest: Guest, _: Leave) -> int:
        self._part(guest)
        return await self._spread(guest, GOODBYE_S)

    async def _sync(self, guest: Guest, _: Sync) -> int:
        await guest.caught_up()
        return self._roster.version

    async def _draw(self, guest: Guest, question: Draw) -> int:
        return self._roster.draw(question.counter, question.how_many)

    def _part(self, guest: Guest) -> None:
        """Take a guest off the roster, and tell the others. Nothing where it is not on it."""
        if self._members.pop(guest.id, None) is not None:
            self._roster.strike(guest.id)
            self._tell_all()

    def _tell_all(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for member in self._members.values():
            member.tell(self._roster, now_s)

    async def _spread(self, guest: Guest, most_s: float) -> int:
        """Tell all members what has changed, and wait for the others to have heard; returns the version."""
        version = self._roster.version
        self._tell_all()
        loop = asyncio.get_running_loop()
        async with self._news_heard:
            while late := [each for each in self._members.values() if each is not guest and each.heard < version]:
                wait_s = max(each.patience_s(loop.time(), most_s) for each in late)
                if wait_s <= 0:
                    break
                try:
                    await asyncio.wait_for(self._news_heard.wait(), wait_s)
                except asyncio.TimeoutError:
                    break
        return version

    async def _hear(self, guest: Guest, version: int) -> None:
        guest.hear(version)
        await self._wake()

    async def _wake(self) -> None:
        async with self._news_heard:
            self._news_heard.notify_all()
