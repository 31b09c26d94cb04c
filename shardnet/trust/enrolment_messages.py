"""What a newcomer and a cluster say to each other, and how it stands in a stream of bytes. Knows no network.

    length of the rest (2 bytes) | kind (1 byte) | fields | tag

Each field, and the tag, has its length (2 bytes) before it. A tag is empty, or shows that the sender knows the key that
both have agreed on; see `exchange`. The beginning of `HELLO` and all of `REFUSED` are the same in all versions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

MAGIC = b"shardnet-enrol"
MOST_BYTES = 2**13
TAG_BYTES = 32
_LENGTH = struct.Struct(">H")


class Kind(IntEnum):
    """Of a message. Whose it is, is said first: nobody accepts what it could have said itself."""

    HELLO = 1
    """Newcomer: MAGIC, its version, how (1 byte), and by code: slot (1), element."""
    ELEMENT = 2
    """Cluster: element."""
    PROOF = 3
    """Newcomer: nothing but the tag."""
    AUTHORITY = 4
    """Cluster: its authority's certificate, the time (8 bytes, seconds since 1970)."""
    REQUEST = 5
    """Newcomer: request for a certificate, the name that it wants, and by token: the token."""
    ISSUED = 6
    """Cluster: certificate, addresses of its gate (a line each)."""
    REFUSED = 7
    """Cluster: reason (1 byte), and its version where that is the reason."""


NUM_FIELDS = {
    Kind.ELEMENT: 1,
    Kind.PROOF: 0,
    Kind.AUTHORITY: 2,
    Kind.REQUEST: 3,
    Kind.ISSUED: 2,
    Kind.REFUSED: 2,
}
"""Those of HELLO are for whoever knows its version to count."""


class How(IntEnum):
    """A newcomer shows that it may come in."""

    CODE = 1
    TOKEN = 2
    MEMBER = 3
    """It has a certificate, and wants a new one."""


class Message(NamedTuple):
    """One of either side."""

    kind: Kind
    fields: tuple[bytes, ...]
    tag: bytes = b""

    @property
    def said(self) -> bytes:
        """What the tag is made of."""
        return bytes([self.kind]) + b"".join(map(_with_length, self.fields))


def pack(message: Message) -> bytes:
    """A message as it stands in the stream."""
    return _with_length(message.said + _with_length(message.tag))


class Incoming:
    """What arrives, put together to messages. It never keeps more than one message."""

    def __init__(self) -> None:
        self._rest = b""

    def messages(self, chunk: bytes) -> Iterator[Message]:
        """The messages that are whole now.

        Raises:
            ValueError: what arrived is none.
        """
        self._rest += chunk
        while len(self._rest) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._rest)
            if not 0 < length <= MOST_BYTES:
                raise ValueError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._rest) < end:
                return
            content, self._rest = self._rest[_LENGTH.size : end], self._rest[end:]
            yield _unpack(content)


def _unpack(content: bytes) -> Message:
    kind = Kind(content[0])
    *fields, tag = _fields(content[1:])
    if len(fields) != NUM_FIELDS.get(kind, len(fields)) or len(tag) not in (0, TAG_BYTES):
        raise ValueError("a message with other fields")
    return Message(kind, tuple(fields), tag)


def _fields(content: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(content):
        if len(content) < place + _LENGTH.size:
            raise ValueError("a field without its length")
        (length,) = _LENGTH.unpack_from(content, place)
        place += _LENGTH.size + length
        if len(content) < place:
            raise ValueError("a field that is cut off")
        yield content[place - length : place]


def _with_length(content: bytes) -> bytes:
    return _LENGTH.pack(len(content)) + content
