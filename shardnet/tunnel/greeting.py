"""The first frame over a new connection: which link session it is for. Pure.

    version (2 bytes) | attempt (4) | is new (1) | session (16) | secret (32) | gate (16)

The secret is drawn by who dials, and goes over TLS only: nobody else can take a link session over, not even another
member. Of several connections that one end has begun only the latest counts: an attempt that was given up may arrive
late, and with it all the bytes that somebody has recorded.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from typing import NamedTuple

from shardnet.errors import ClusterError
from shardnet.tunnel.frames import BadFrame

VERSION = 1
_FIELDS = struct.Struct(">HIB16s32s16s")
_VERSION = struct.Struct(">H")


class LinkRefused(ClusterError):
    """A gate does not take up the link session that a connection is for."""


class Identity(NamedTuple):
    """By which both ends know a link session."""

    session: bytes
    secret: bytes

    def is_same(self, other: Identity) -> bool:
        """Without telling by the time that it takes how much of it is."""
        return hmac.compare_digest(self.session + self.secret, other.session + other.secret)


class Greeting(NamedTuple):
    """What who dials says of the connection."""

    identity: Identity
    attempt: int
    """Counted from 1."""
    is_new: bool
    """Whether no connection of the session was welcomed yet."""
    gate: bytes
    """Drawn by each gate when it starts: link sessions of one that has ended are over."""


def draw_identity() -> Identity:
    """A new one."""
    return Identity(secrets.token_bytes(16), secrets.token_bytes(32))


def draw_gate() -> bytes:
    """The same of a gate."""
    return secrets.token_bytes(16)


def pack_greeting(greeting: Greeting) -> bytes:
    """The payload of a GREETING."""
    return _FIELDS.pack(VERSION, greeting.attempt, greeting.is_new, *greeting.identity, greeting.gate)


def unpack_greeting(payload: bytes) -> Greeting:
    """What it says.

    Raises:
        BadFrame: it is none, or one of another version.
    """
    if len(payload) >= _VERSION.size and _VERSION.unpack_from(payload)[0] != VERSION:
        theirs = _VERSION.unpack_from(payload)[0]
        raise BadFrame(f"its tunnel has version {theirs}, and this one {VERSION}: both need the same shardnet")
    if len(payload) != _FIELDS.size:
        raise BadFrame(f"a greeting has {len(payload)} bytes, and not {_FIELDS.size}")
    _, attempt, is_new, session, secret, gate = _FIELDS.unpack(payload)
    if is_new > 1:
        raise BadFrame("a greeting is neither of a new link session nor of an old one")
    return Greeting(Identity(session, secret), attempt, bool(is_new), gate)
