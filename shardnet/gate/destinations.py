"""What a stream between two gates is for, and how it is written. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from shardnet.process.lasting import DOOR, STATUS, TRUST
from shardnet.trust.names import is_name

SOCKETS = {DOOR, STATUS, TRUST}
"""Of the coordinator's state folder, that other hosts reach."""
HOSTS = "hosts"
"""Not a socket: on such a stream a host says where it can be dialled, and hears of the others. See `hosts`."""
_GATE = re.compile(rb"gate ([A-Za-z0-9._-]+)")
_MEMBER = re.compile(rb"member ([A-Za-z0-9._-]+) ([0-9]{1,5})")


class Gate(NamedTuple):
    """The gate of another host: what follows is closed to the one that carries it."""

    host: str


class Member(NamedTuple):
    """The agent of a member."""

    host: str
    port: int


Destination = Member | Gate | str
"""Or one of `SOCKETS`, or `HOSTS`."""


def written(destination: Destination) -> bytes:
    """As the other gate reads it."""
    if isinstance(destination, Member):
        return f"member {destination.host} {destination.port}".encode()
    if isinstance(destination, Gate):
        return f"gate {destination.host}".encode()
    return destination.encode()


def read(content: bytes) -> Destination | None:
    """None where it is none."""
    found = _MEMBER.fullmatch(content)
    if found is not None:
        host, port = found[1].decode(), int(found[2])
        return Member(host, port) if is_name(host) and 0 < port < 2**16 else None
    found = _GATE.fullmatch(content)
    if found is not None:
        return Gate(found[1].decode()) if is_name(found[1].decode()) else None
    text = content.decode("ascii", "replace")
    return text if text in (*SOCKETS, HOSTS) else None
