"""The first frame over a new connection: which link session it is for. Pure.

    version (18 bytes) | attempt (4) | is new (1) | session (16) | secret (32) | gate (16)

The version stands there in all versions. Whoever has one that does not go with it answers with its own, and no more.

The secret is drawn by who dials, and goes over TLS only: nobody else can take a link session over, not even another
member. Of several connections that one end has begun only the latest counts: an attempt that was given up may arrive
late, and with it all the bytes that somebody has recorded.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from typing import NamedTuple

from shardnet.errors import ClusterError, OtherVersion
from shardnet.tunnel.frames import BadFrame
from shardnet.versions import OURS, OWN, VERSION_BYTES, Version, packed, unpacked, why_not_together

_FIELDS = struct.Struct(">IB16s32s16s")


class LinkRefused(ClusterError):
    """A gate does not take up the link session that a connection is for."""


class GateOfOtherVersion(OtherVersion):
    """The gates of two hosts have versions that do not go together."""

    def __init__(self, theirs: Version, peer: str) -> None:
        super().__init__(why_not_together(theirs, f"The host {peer}"))
        self.theirs = theirs


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
    fields = _FIELDS.pack(greeting.attempt, greeting.is_new, *greeting.identity, greeting.gate)
    return packed(OWN) + fields


def unpack_greeting(payload: bytes, peer: str) -> Greeting:
    """What it says.

    Args:
        peer: the host that has sent it.

    Raises:
        BadFrame: it is none.
        GateOfOtherVersion: it is one of a version that does not go with this one.
    """
    if len(payload) >= VERSION_BYTES and (theirs := unpacked(payload[:VERSION_BYTES])).wire != OURS.wire:
        raise GateOfOtherVersion(theirs, peer)
    if len(payload) != VERSION_BYTES + _FIELDS.size:
        raise BadFrame(f"a greeting has {len(payload)} bytes, and not {VERSION_BYTES + _FIELDS.size}")
    attempt, is_new, session, secret, gate = _FIELDS.unpack_from(payload, VERSION_BYTES)
    if is_new > 1:
        raise BadFrame("a greeting is neither of a new link session nor of an old one")
    return Greeting(Identity(session, secret), attempt, bool(is_new), gate)
