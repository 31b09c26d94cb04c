"""What the door answers to its guests, and what it tells them. Runs on one event loop; knows no listeners.

Nothing is told, and no number given, before it is kept: where this process is killed, the next one in the same folder
goes on from there. Members of the roster that it finds are *away* until they come back.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from shardnet.errors import ClusterError, Evicted, JoinFailed, NameTaken, PortTaken, ShardnetError
from shardnet.process.identity import has_ended
from shardnet.process.tasks import Tasks
from shardnet.process.tokens import Buckets, Pace
from shardnet.transport.door import messages
from shardnet.transport.door.gate import Gate
from shardnet.transport.door.guest import Guest
from shardnet.transport.door.keeper import Keeper
from shardnet.transport.door.messages import (
    Done,
    Draw,
    Enlist,
    Enter,
    Heard,
    Leave,
    Pong,
    Refused,
    Return,
    Strike,
    Sync,
    Unreachable,
)
from shardnet.transport.door.roster import Member, Roster
from shardnet.transport.failure import encode
from shardnet.transport.wire.values import Undecodable

NOTICE_S = 2.0
"""How long a join or an eviction waits for members that do not hear of it, or for the holder of a name."""
GOODBYE_S = 0.4
"""The same for a member that leaves."""
RETURN_S = 60.0
"""How long members may take to come back after the door was opened again. Who does not is struck off."""
BURY_EVERY_S = 1.0
"""How often it is looked whether they can come back at all."""
KEEP_AGAIN_S = 1.0
"""After which the roster is written again, where the disk was full."""
MOST_QUESTIONS = 64
"""Of one guest at the same time."""
CLASHES = Pace(per_s=1 / 60, at_once=3)
"""How often a host is believed that the port of a newcomer is taken there. Where all ports seem to be, it has to go."""
ENTRIES = Pace(per_s=0.5, at_once=64)
"""Ids that another host is given: the cluster has 2**15 in all, and none is used again."""
MOST_GUESTS_OF_HOST = 64
"""Connections at the same time, of another host."""


class Desk:
    """The roster, and the guests that are on it."""

    def __init__(self, roster: Roster, keeper: Keeper) -> None:
        self._roster = roster
        self._keeper = keeper
        self._members: dict[int, Guest] = {}
        """Those who are connected."""
        self._away = {member.id for member in roster.members}
        self._news_heard = asyncio.Condition()
        self._tasks = Tasks()
        self._is_publishing = False
        self._is_closed = False
        self._gate = Gate(self._turn_out)
        self._clashes = Buckets(CLASHES)
        """By the host that says so."""
        self._entries = Buckets(ENTRIES)
        self._num_guests: Counter[str] = Counter()
        """By host; none of the door's own."""
        self._serves: dict[type, Callable[[Guest, Any], Awaitable[int]]] = {
            Enter: self._enter,
            Enlist: self._enlist,
            Return: self._return,
            Strike: self._strike,
            Leave: self._leave,
            Sync: self._sync,
            Draw: self._draw,
        }

    def open(self) -> None:
        """Wait for those who are away, but not for the dead, such as who had this door before."""
        self._bury_away()
        if self._away:
            self._tasks.start(self._wait_for_away())

    async def _wait_for_away(self) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + RETURN_S
        while self._away and (left_s := deadline_s - loop.time()) > 0:
            await asyncio.sleep(min(left_s, BURY_EVERY_S))
            self._bury_away()
        for member_id in list(self._away):
            self._strike_off(member_id)

    def _bury_away(self) -> None:
        """Strike those off who are away and whose process is known to have ended."""
        for member_id in list(self._away):
            member = self._roster.member(member_id)
            if member is not None and has_ended(member.process):
                self._strike_off(member_id)

    def close(self) -> None:
        """The door is closed: the connections that end now are not the ends of their members."""
        self._is_closed = True

    async def serve(self, guest: Guest) -> None:
        """Answer a guest for as long as it is there, unless its host has too many. Its end is that of its membership.

        Raises:
            EOFError, OSError, Undecodable: as `Guest.read`.
        """
        if self._num_guests[guest.host] >= MOST_GUESTS_OF_HOST:
            return
        if guest.host:
            self._num_guests[guest.host] += 1
        questions = asyncio.Semaphore(MOST_QUESTIONS)
        try:
            while True:
                said = await guest.read()
                if type(said) is Heard:
                    await self._hear(guest, said.version)
                elif type(said) is Pong:
                    guest.pong()
                elif type(said) is Unreachable and guest.host:
                    self._hear_of_clash(guest, said.id)
                elif type(said) in messages.SAID:
                    await questions.acquire()
                    self._tasks.start(self._answer(guest, said, questions))
                else:
                    raise Undecodable("this is for the door to say")
        finally:
            if guest.host:
                self._num_guests[guest.host] -= 1
            guest.end()
            self._part(guest)
            self._tasks.start(self._wake())

    async def serve_gate(self, guest: Guest) -> None:
        """Tell the gate of this host of all members, for as long as it is there.

        Raises:
            EOFError, OSError, Undecodable: as `Guest.read`.
        """
        await self._gate.serve(guest, self._roster.members)

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
            if guest.host and not self._may(self._entries, guest.host):
                raise JoinFailed(
                    f"The host {guest.host} has joined too often within minutes. Try again in some seconds."
                )
            guest.id = self._roster.admit()
        await self._keeper.keep()
        return guest.id

    async def _enlist(self, guest: Guest, question: Enlist) -> int:
        secret_hash = _hash_of(question.secret)
        newcomer = Member(guest.id, question.name, question.address, secret_hash, guest.process, guest.host)
        self._roster.require_new(guest.id)
        if guest.is_enlisting:
            raise ClusterError("Who is being put on the roster asks for that once.")
        guest.is_enlisting = True
        try:
            await self._gate.add(newcomer)
            while (holder := self._try(guest, newcomer)) is not None:
                await self._challenge(holder, newcomer)
                await self._gate.add(newcomer)  # there may be another one by now
        except BaseException:
            self._gate.drop(guest.id)
            raise
        else:
            self._members[guest.id] = guest
            return await self._spread_newcomer(guest, newcomer)
        finally:
            guest.is_enlisting = False

    async def _spread_newcomer(self, guest: Guest, newcomer: Member) -> int:
        try:
            # Of one from another host, its gate says whether all ports are free there before it has heard.
            version = await self._spread(None if guest.host else guest, NOTICE_S)
        except ClusterError:  # it was not kept
            self._part(guest)
            raise
        if guest.is_unreachable:
            raise PortTaken(f"The port of {newcomer.name} is taken on another host. Join it anew.")
        if guest.blocked_by:
            raise JoinFailed(f"{guest.blocked_by} has a port that is taken on this host. Look what listens there.")
        return version

    def _hear_of_clash(self, guest: Guest, member_id: int) -> None:
        """The gate of another host says, among what a member of its says, that the port of another member is taken
        there. Whoever of the two has come later cannot be in the cluster so. No host keeps others out by saying so
        again and again: it goes itself then."""
        if self._members.get(guest.id) is not guest:
            return
        newcomer, member = self._members.get(member_id), self._roster.member(member_id)
        if newcomer is not None and newcomer.is_enlisting and self._may(self._clashes, guest.host):
            newcomer.is_unreachable = True
            self._strike_off(member_id)
        elif member is not None and guest.is_enlisting:
            guest.blocked_by = f"{member.name} ({member.address})"
            self._part(guest)
        elif member is not None:
            self._turn_out(guest.id)

    def _may(self, buckets: Buckets, host: str) -> bool:
        """Whether a host may do something that takes a token."""
        now_s = asyncio.get_running_loop().time()
        if now_s < buckets.free_s(host):
            return False
        buckets.take(host, now_s)
        return True

    def _try(self, guest: Guest, newcomer: Member) -> Member | None:
        """Put a newcomer on the roster, or return who holds its name."""
        if guest.id == 0 or guest.is_gone:
            raise ClusterError("Who has no number, or is gone, cannot be on the roster.")
        return self._roster.enlist(newcomer)

    async def _challenge(self, holder: Member, newcomer: Member) -> None:
        """Return when the holder of a name is gone.

        Raises:
            NameTaken: it lives, or may do so.
        """
        guest = self._members.get(holder.id)
        if guest is None:
            self._claim_name_of_away(holder, newcomer)
        elif await guest.answers(NOTICE_S):
            raise NameTaken(f"A device called {holder.name} is in the cluster already. Choose another name.")
        elif not guest.is_gone and holder.id in self._members:
            raise NameTaken(
                f"A device called {holder.name} is in the cluster and does not answer. "
                "Wait until it is evicted, or choose another name."
            )

    def _claim_name_of_away(self, holder: Member, newcomer: Member) -> None:
        """Who is away keeps its name as long as its process lives. A process is one member at a time.

        Raises:
            NameTaken: it lives.
        """
        is_same = holder.process == newcomer.process
        if holder.process and not is_same and not has_ended(holder.process):
            raise NameTaken(
                f"A device called {holder.name} was here before the cluster was started again, and may come back. "
                f"Try again in {RETURN_S:.0f} s, or choose another name."
            )
        self._strike_off(holder.id)

    async def _return(self, guest: Guest, question: Return) -> int:
        """Let a member go on that is away, or whose connection is dead and has not ended here yet."""
        if guest.id != 0 or guest.is_gone:
            raise ClusterError("Who has a number, or is gone, does not come back.")
        member = self._roster.member(question.id)
        is_known = member is not None and hmac.compare_digest(member.secret_hash, _hash_of(question.secret))
        if not is_known or question.version > self._roster.kept:
            raise Evicted(f"Device number {question.id} is not in this cluster any more. Join it anew.")
        before = self._members.get(question.id)
        guest.resume(question.id, question.version)
        self._members[question.id] = guest
        self._away.discard(question.id)
        if before is not None:
            before.end()
        guest.tell(self._roster, asyncio.get_running_loop().time())
        await guest.caught_up()
        return self._roster.kept

    async def _strike(self, guest: Guest, question: Strike) -> int:
        if self._members.get(guest.id) is not guest:
            raise ClusterError("Only members strike others off.")
        self._turn_out(question.id)
        return await self._spread(guest, NOTICE_S)

    def _turn_out(self, member_id: int) -> None:
        """Strike a member off, and tell it so."""
        struck = self._members.get(member_id)
        self._strike_off(member_id)
        if struck is not None:
            self._tasks.start(struck.farewell())

    async def _leave(self, guest: Guest, _: Leave) -> int:
        self._part(guest)
        return await self._spread(guest, GOODBYE_S)

    async def _sync(self, guest: Guest, _: Sync) -> int:
        await guest.caught_up()
        return self._roster.kept

    async def _draw(self, guest: Guest, question: Draw) -> int:
        first = self._roster.draw(question.counter, question.how_many)
        await self._keeper.keep()
        return first

    def _part(self, guest: Guest) -> None:
        """Take a guest off the roster. Nothing where it is not on it, or has come back by another connection."""
        if self._members.get(guest.id) is guest:
            self._strike_off(guest.id)

    def _strike_off(self, member_id: int) -> None:
        """Take a member off the roster, and tell the others soon. Nothing where it is not on it."""
        if self._is_closed:
            return
        self._members.pop(member_id, None)
        self._away.discard(member_id)
        self._gate.drop(member_id)
        if self._roster.strike(member_id) and not self._is_publishing:
            self._is_publishing = True
            self._tasks.start(self._publish())

    async def _publish(self) -> None:
        """Tell all members what has changed, as soon as it is kept."""
        told = -1
        while told < self._roster.version:  # more may change while it is written
            version = self._roster.version
            try:
                await self._keeper.keep()
            except ClusterError:
                await asyncio.sleep(KEEP_AGAIN_S)
                continue
            self._tell_all()
            told = version
        self._is_publishing = False
        await self._wake()

    def _tell_all(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for member in self._members.values():
            member.tell(self._roster, now_s)

    async def _spread(self, guest: Guest | None, most_s: float) -> int:
        """Tell all members what has changed, and wait for all to have heard but this guest; returns the version."""
        version = self._roster.version
        await self._keeper.keep()
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


def _hash_of(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
