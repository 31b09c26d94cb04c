"""How a greeting stands, in all versions: by it two that cannot understand each other say so. Pure.

"shardnet" | version (18 bytes) | mark of the messages that the sender knows (4) | nonce (32)
"""

from __future__ import annotations

import secrets

from shardnet.transport.door.messages import GREETING_BYTES
from shardnet.versions import VERSION_BYTES, Version, packed, unpacked

_NAME = b"shardnet"
MARK_BYTES, NONCE_BYTES = 4, 32
_VERSION_AT = len(_NAME)
_MARK_AT = _VERSION_AT + VERSION_BYTES
assert _MARK_AT + MARK_BYTES + NONCE_BYTES == GREETING_BYTES


def greeting_of(version: Version, mark: bytes) -> bytes:
    """A new one."""
    return _NAME + packed(version) + mark + secrets.token_bytes(NONCE_BYTES)


def is_greeting(received: bytes) -> bool:
    """Whether it is one of any version of shardnet."""
    return len(received) == GREETING_BYTES and received.startswith(_NAME)


def version_in(greeting: bytes) -> Version:
    """What its sender says that it is."""
    return unpacked(greeting[_VERSION_AT:_MARK_AT])


def mark_in(greeting: bytes) -> bytes:
    """Of the messages that its sender knows."""
    return greeting[_MARK_AT : _MARK_AT + MARK_BYTES]
