"""The gate of the door's own host, as the door sees it: told of every member, so that hosts reach each other's.

A gate carries between hosts. Members of other hosts come to the door through it, and their agents are reached at their
own port here, where the gate listens for them. See `tunnel`.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Iterable
from contextlib import suppress

from shardnet.errors import ClusterError, JoinFailed, PortTaken
from shardnet.transport.door.guest import Guest
from shardnet.transport.door.messages import AddPort, AllTold, Done, DropPort, Refused
from shardnet.transport.door.roster import Member
from shardnet.transport.names import SOURCE_MARK
from shardnet.transport.wire.values import Undecodable

LEAST_PORT = 1024
ANSWER_S = 5.0
"""How long a gate may take to listen."""
_NUMBER = re.compile(r"[1-9][0-9]{0,3}")
"""Behind the name of a host: of its further devices."""
_ADDRESS = re.compile(r"uv://127\.0\.0\.1:([0-9]{1,5})")


class Gate:
    """There may be none: then nobody comes from other hosts.

    Args:
        on_unreachable: told of a member that other hosts, or this one, do not reach any more.
    """

    def __init__(self, on_unreachable: Callable[[int], object]) -> None:
        self._on_unreachable = on_unreachable
        self._guest: Guest | None = None
        self._answers: dict[int, asyncio.Future[bool]] = {}
        self._numbers = itertools.count(1)

    async def serve(self, guest: Guest, members: Iterable[Member]) -> None:
        """Tell a gate of those who are there, and of all changes, as long as it is there. It replaces an older one.

        Raises:
            EOFError, OSError, Undecodable: as `Guest.read`.
        """
        if self._guest is not None:
            self._guest.end()
        self._guest = guest
        try:
            for member in members:
                self._say(guest, member).add_done_callback(self._look_at(member.id))
            guest.say(AllTold())
            while True:
                said = await guest.read()
                if type(said) is Done or type(said) is Refused:
                    self._settle(said.number, type(said) is Done)
                else:
                    raise Undecodable("a gate says nothing else")
        finally:
            guest.end()
            if self._guest is guest:
                self._guest = None
                for number in list(self._answers):
                    self._settle(number, None)

    async def add(self, member: Member) -> None:
        """Return when other hosts can reach a member, or, from another host, when this one can.

        Raises:
            PortTaken: something here has its port.
            JoinFailed: it comes from another host, under a name that is not its own or without a port.
            ClusterError: it comes from another host, and there is no gate.
        """
        if member.host:
            _require_own_name(member)
        if port_of(member.address) is None:
            if member.host:
                raise JoinFailed(f"{member.name} does not listen on its loopback, and cannot be reached.")
            return
        while (guest := self._guest) is not None:
            with suppress(asyncio.TimeoutError, asyncio.CancelledError):
                if not await asyncio.wait_for(self._say(guest, member), ANSWER_S):
                    raise PortTaken(f"The port of {member.name} is taken on the host of the cluster. Join it anew.")
                return
            if guest is self._guest:  # it does not answer
                raise ClusterError(f"{member.name} cannot be reached from other hosts: the gate does not answer.")
        if member.host:
            raise ClusterError(f"{member.name} cannot be reached: the gate of the cluster has ended.")

    def drop(self, member_id: int) -> None:
        """A member is gone."""
        if self._guest is not None:
            self._guest.say(DropPort(member_id))

    def _say(self, guest: Guest, member: Member) -> asyncio.Future[bool]:
        answer = asyncio.get_running_loop().create_future()
        port = port_of(member.address)
        if port is None:
            answer.set_result(True)
            return answer
        number = next(self._numbers)
        self._answers[number] = answer
        guest.say(AddPort(number, member.id, port, member.host))
        return answer

    def _look_at(self, member_id: int) -> Callable[[asyncio.Future[bool]], None]:
        def look(answer: asyncio.Future[bool]) -> None:
            if not answer.cancelled() and not answer.result():
                self._on_unreachable(member_id)

        return look

    def _settle(self, number: int, is_done: bool | None) -> None:
        """None where the gate is gone, and will be told again."""
        answer = self._answers.pop(number, None)
        if answer is None or answer.done():
            return
        if is_done is None:
            answer.cancel()
        else:
            answer.set_result(is_done)


def _require_own_name(member: Member) -> None:
    """A host's device has the name in its certificate, further ones a number behind it, which no certificate has;
    sources have none of their own.

    Raises:
        JoinFailed: it has another one.
    """
    host, _, number = member.name.partition(":")
    is_own = host == member.host and (member.name == host or _NUMBER.fullmatch(number) is not None)
    if not is_own and not member.name.startswith(SOURCE_MARK):
        raise JoinFailed(f"This host was let in as {member.host}, and cannot bring {member.name} in. Join by its name.")


def port_of(address: str) -> int | None:
    """Of an agent; None where it listens elsewhere than on the loopback, or at a port that the system gives nobody: all
    gates would listen there, too."""
    found = _ADDRESS.fullmatch(address)
    return int(found[1]) if found and LEAST_PORT <= int(found[1]) < 2**16 else None
