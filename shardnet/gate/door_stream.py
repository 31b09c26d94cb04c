"""What a member and the door say to each other, as a gate sees it go by: whole messages, so that the gate can act on
one before it goes on. Pure."""

from __future__ import annotations

from typing import Any

from shardnet.transport.door.messages import GREETING_BYTES, PROOF_BYTES, length_in, unpack
from shardnet.transport.wire.values import COUNT


class DoorStream:
    """One direction of one connection.

    Args:
        most_bytes: of a message in that direction.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._unread = bytearray()
        self._num_handshake_bytes = GREETING_BYTES + PROOF_BYTES

    def feed(self, part: bytes) -> list[tuple[bytes, Any]]:
        """What is whole by now, as it came, each with the message that it is; None for what comes before them.

        Raises:
            Undecodable: these are none of our messages.
        """
        self._unread += part
        whole: list[tuple[bytes, Any]] = []
        if self._num_handshake_bytes:
            said = bytes(self._unread[: self._num_handshake_bytes])
            del self._unread[: len(said)]
            self._num_handshake_bytes -= len(said)
            whole.append((said, None))
        while len(self._unread) >= COUNT.size:
            end = COUNT.size + length_in(bytes(self._unread[: COUNT.size]), self._most_bytes)
            if len(self._unread) < end:
                break
            message = bytes(self._unread[:end])
            del self._unread[:end]
            whole.append((message, unpack(message[COUNT.size :])))
        return whole
