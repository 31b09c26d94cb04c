"""What goes over a connection between two gates: frames, written and read. Pure.

    kind (1 byte) | 0 | length of the payload (2 bytes) | stream (4 bytes) | number (8 bytes) | payload

All numbers are big-endian. *Numbered* frames are kept until the other end has acknowledged them: their number is how
many of them the link session has sent, in that direction. In the others it is what the kind says.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from shardnet.errors import ClusterError
from shardnet.versions import VERSION_BYTES

HEAD = struct.Struct(">BBHIQ")
MOST_PAYLOAD_BYTES = 2**16 - 1
MOST_DESTINATION_BYTES = 256
MOST_REASON_BYTES = 512
_CREDIT = struct.Struct(">I")
_ROOM_BYTES = 2**18
"""Of a reader: what is read at once at the most, and more than a frame."""


class BadFrame(ClusterError):
    """What arrived is not what a gate sends."""


class Kind(IntEnum):
    """What a frame says. Of the first five `stream` says of which, and they are numbered."""

    OPEN = 1
    """The stream begins; the payload is its destination."""
    DATA = 2
    CREDIT = 3
    """So many bytes more may be sent on the stream (`credit_in`)."""
    END = 4
    """No more data comes in this direction."""
    RESET = 5
    """The stream is over, in both directions."""
    ACK = 6
    """`number`: how many numbered frames have arrived."""
    PING = 7
    PONG = 8
    """The answer to a ping."""
    GOODBYE = 9
    """The link session is over; the payload says why."""
    GREETING = 10
    """The first frame of who has dialled (`greeting`); `number` as in an ACK."""
    WELCOME = 11
    """The answer: the link session goes on over this connection; `number` as in an ACK."""
    REFUSED = 12
    """The other answer; the payload says why."""
    OTHER_VERSION = 13
    """The third answer: the payload is the version of who was dialled, and does not go with that of who has dialled."""


NUMBERED = frozenset({Kind.OPEN, Kind.DATA, Kind.CREDIT, Kind.END, Kind.RESET})
_LENGTHS = {
    Kind.OPEN: (1, MOST_DESTINATION_BYTES),
    Kind.DATA: (1, MOST_PAYLOAD_BYTES),
    Kind.CREDIT: (_CREDIT.size, _CREDIT.size),
    Kind.GOODBYE: (0, MOST_REASON_BYTES),
    Kind.GREETING: (1, MOST_PAYLOAD_BYTES),
    Kind.REFUSED: (0, MOST_REASON_BYTES),
    Kind.OTHER_VERSION: (VERSION_BYTES, VERSION_BYTES),
}
"""Least and most bytes of the payload; other kinds have none."""
_KINDS: list[tuple[Kind, int, int, bool] | None] = [None] * 256
for _kind in Kind:
    _KINDS[_kind] = (_kind, *_LENGTHS.get(_kind, (0, 0)), _kind in NUMBERED)


class Frame(NamedTuple):
    """One frame, as it was read."""

    kind: Kind
    stream: int
    number: int
    payload: bytes


def pack(kind: Kind, stream: int = 0, number: int = 0, payload: bytes = b"") -> bytes:
    """A frame as bytes."""
    return HEAD.pack(kind, 0, len(payload), stream, number) + payload


def pack_credit(stream: int, number: int, num_bytes: int) -> bytes:
    """A CREDIT frame."""
    return pack(Kind.CREDIT, stream, number, _CREDIT.pack(num_bytes))


def credit_in(frame: Frame) -> int:
    """How many bytes a CREDIT frame gives."""
    num_bytes: int = _CREDIT.unpack(frame.payload)[0]
    return num_bytes


def pack_reason(kind: Kind, reason: str) -> bytes:
    """A frame that says why."""
    return pack(kind, payload=reason.encode()[:MOST_REASON_BYTES])


def reason_in(frame: Frame) -> str:
    """What the other end says, in letters that can be shown."""
    said = frame.payload.decode(errors="replace")
    return "".join(letter if letter.isprintable() else "?" for letter in said)


class FrameReader:
    """Makes frames of bytes that come in any pieces. After an error it is of no use any more."""

    def __init__(self) -> None:
        self._room = memoryview(bytearray(_ROOM_BYTES))
        self._num_bytes = 0
        """Of the beginning of the room: what no frame was made of yet."""

    def room(self) -> memoryview:
        """Where the next bytes go; never empty."""
        return self._room[self._num_bytes :]

    def filled(self, num_bytes: int) -> list[Frame]:
        """The frames that are complete now that so many bytes have been put into `room`.

        Raises:
            BadFrame: this is none.
        """
        end = self._num_bytes + num_bytes
        at = 0
        frames = []
        while end - at >= HEAD.size:
            kind, length, stream, number = _head_at(self._room, at)
            after = at + HEAD.size + length
            if after > end:
                break
            frames.append(Frame(kind, stream, number, bytes(self._room[at + HEAD.size : after])))
            at = after
        if at:
            self._room[: end - at] = self._room[at:end]
        self._num_bytes = end - at
        return frames


def _head_at(room: memoryview, at: int) -> tuple[Kind, int, int, int]:
    """Kind, length, stream and number, which go together."""
    first, zero, length, stream, number = HEAD.unpack_from(room, at)
    known = _KINDS[first]
    if known is None or zero:
        raise BadFrame(f"a frame begins with the bytes {first} and {zero}, which none does")
    kind, least, most, is_numbered = known
    if not least <= length <= most:
        raise BadFrame(f"a frame of the kind {kind.name} has {length} bytes, and not {least} to {most}")
    if is_numbered != bool(stream) or (is_numbered and not number):
        raise BadFrame(f"a frame of the kind {kind.name} has stream {stream} and number {number}")
    return kind, length, stream, number
