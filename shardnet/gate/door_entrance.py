"""Where members of this host come to the door of their cluster, which is on another one: the gate hears with them of
whom it has to reach, and is reached for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from shardnet.errors import ClusterError
from shardnet.gate.door_stream import DoorStream
from shardnet.gate.ports import Ports
from shardnet.transport.door.gate import port_of
from shardnet.transport.door.greeting import MARK_BYTES, greeting_of
from shardnet.transport.door.messages import (
    MOST_SAID_BYTES,
    MOST_TOLD_BYTES,
    Done,
    Enlist,
    Enter,
    News,
    Refused,
    Return,
    Unreachable,
    pack,
)
from shardnet.transport.wire.values import Undecodable
from shardnet.trust.names import COORDINATOR
from shardnet.tunnel.forward import Pump
from shardnet.versions import Version


class DoorEntrance:
    """Of one connection. What goes by is looked at before it goes on.

    Args:
        host: this one's name.
        ports: of members, here and on other hosts.
        open_far: given what is to read a stream to the door; ClusterError where there is no link.
        say: told, in a sentence, of whom is not reached from here.
    """

    def __init__(self, host: str, ports: Ports, open_far: Callable[[Pump], None], say: Callable[[str], object]) -> None:
        self._host = host
        self._ports = ports
        self._say = say
        self._asked: int | None = None
        """The number under which the member has asked for its id."""
        self._enlisting: int | None = None
        """The same of its asking to be on the roster."""
        self._returning: Return | None = None
        self._id = 0
        self.near = _Watched(DoorStream(MOST_SAID_BYTES), self._look_at_said)
        self.far = _Watched(DoorStream(MOST_TOLD_BYTES), self._look_at_told)
        self.near.other, self.far.other = self.far, self.near
        self.near.on_made = partial(open_far, self.far)
        self.near.on_end = self._has_left

    def _look_at_said(self, said: Any) -> None:
        if type(said) is Enter:
            self._asked = said.number
        elif type(said) is Return:
            self._returning = said
        elif type(said) is Enlist and self._id:
            self._enlisting = said.number
            self._enlist(said.address)

    def _look_at_told(self, told: Any) -> None:
        if type(told) is Done and told.number == self._asked:
            self._id = told.value
        elif type(told) is Done and self._returning is not None and told.number == self._returning.number:
            self._id = self._returning.id
            self._ports.wake(self._id)
        elif type(told) is Refused and told.number == self._enlisting:
            self._ports.rest(self._id)
        elif type(told) is News:
            self._hear(told)

    def _enlist(self, address: str) -> None:
        """The member is about to be on the roster: whoever hears of it may come at once."""
        port = port_of(address)
        if port is not None:
            self._ports.add(self._id, port, self._host)

    def _hear(self, news: News) -> None:
        """The member is about to hear of others: it may go to them at once. Where the port of one is taken here, the
        door is told so before the member can say that it has heard."""
        for member_id in news.left:
            self._ports.drop(member_id)
        for member_id, name, address, host in news.joined:
            port = port_of(address)
            if port is not None and not self._ports.add(member_id, port, host or COORDINATOR):
                self._say(f"port {port} is taken on this host, so that {name} is not reached at it")
                self._say_to_door(Unreachable(member_id))

    def _has_left(self) -> None:
        """The member has ended the connection. Where the door or the link has, it may be there still, and come back."""
        if self.far.transport is not None and not self.far.has_ended:
            self._ports.rest(self._id)

    def _say_to_door(self, message: Any) -> None:
        """Between two messages of the member, which go on as wholes."""
        if self.far.transport is not None:
            self.far.transport.write(pack(message))


class OtherDoor(asyncio.Protocol):
    """Stands for a door of another version, which is not reached, and greets as it would: so members say why."""

    def __init__(self, version: Version) -> None:
        self._greeting = greeting_of(version, bytes(MARK_BYTES))
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(self._greeting)
            self._transport.close()


class _Watched(Pump):
    """Looks at each message before it goes on."""

    def __init__(self, stream: DoorStream, look: Callable[[Any], None]) -> None:
        super().__init__()
        self._stream = stream
        self._look = look
        self.on_made: Callable[[], None] = _nothing
        self.on_end: Callable[[], None] = _nothing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        try:
            self.on_made()
        except ClusterError:
            self.reset()

    def eof_received(self) -> bool:
        self.on_end()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.on_end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        try:
            for content, message in self._stream.feed(data):
                if message is not None:
                    self._look(message)
                super().data_received(content)
        except Undecodable:
            self.reset()
            self.other.reset()


def _nothing() -> None:
    """Nobody minds."""
