"""One connection of a member to the door: whole messages, said from any thread and read by one."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import Any

from shardnet.transport.door import messages
from shardnet.transport.door.knocking import read_exactly
from shardnet.transport.door.messages import MOST_TOLD_BYTES

HAS_ENDED = "its process has ended"
"""Why a connection is over that the other end has closed, whichever side hears of it first."""
SAY_S = 5.0
"""How long a message may take to leave."""


class DoorConnection:
    """Takes a socket over that was let in."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(SAY_S), 0))
        self._lock = threading.Lock()
        self.why_over = ""
        """Empty as long as it lasts."""

    def say(self, message: Any) -> None:
        """Write a message.

        Raises:
            OSError: the connection is over.
        """
        with self._lock:
            if self.why_over:
                raise OSError(self.why_over)
            try:
                self._socket.sendall(messages.pack(message))
            except OSError as error:  # half of it may have left: nothing can follow
                self.why_over = HAS_ENDED if isinstance(error, ConnectionError) else error.strerror or str(error)
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_WR)
                raise

    def read(self) -> Any:
        """What the door says next.

        Raises:
            EOFError, OSError: the connection is over.
            Undecodable: this is none of our messages.
        """
        head = read_exactly(self._socket, 4)
        return messages.unpack(read_exactly(self._socket, messages.length_in(head, MOST_TOLD_BYTES)))

    def end(self, reason: str) -> None:
        """Nothing goes over it any more, and who reads is told so. Safe to call twice."""
        with self._lock:
            self.why_over = self.why_over or reason
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of it: for who reads, at the end, and for a forked child, where the parent's copy goes on."""
        self._socket.close()
