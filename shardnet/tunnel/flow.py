"""How much is under way on a stream: what waits to be sent, and for how much there is room at the other end. Pure.

A stream may send what its reader has given it credit for. It begins with a little; each time that the reader has taken
half of it, it gets as much again, and twice as much where the streams of its link session have not yet shared out all
that they may have beyond their first credit.
"""

from __future__ import annotations

from collections import deque

from shardnet.tunnel.frames import BadFrame


class Outgoing:
    """What waits at its sender."""

    def __init__(self, credit_bytes: int) -> None:
        self._credit_bytes = credit_bytes
        self._pieces: deque[memoryview] = deque()
        self.num_bytes = 0
        """That wait."""
        self.is_ended = False
        """Nothing is added any more."""

    @property
    def can_send(self) -> bool:
        """Whether something waits for which the reader has room."""
        return self.num_bytes > 0 and self._credit_bytes > 0

    def add(self, data: bytes) -> None:
        """More to send."""
        if data:
            self._pieces.append(memoryview(data))
            self.num_bytes += len(data)

    def give(self, num_bytes: int) -> None:
        """The reader has room for more."""
        self._credit_bytes += num_bytes

    def take(self, most_bytes: int) -> tuple[int, list[memoryview]]:
        """What goes out next: how many bytes, and the pieces that they are in."""
        left = taken = min(most_bytes, self._credit_bytes, self.num_bytes)
        pieces = []
        while left:
            piece = self._pieces.popleft()
            if len(piece) > left:
                self._pieces.appendleft(piece[left:])
                piece = piece[:left]
            pieces.append(piece)
            left -= len(piece)
        self._credit_bytes -= taken
        self.num_bytes -= taken
        return taken, pieces

    def clear(self) -> None:
        """Nothing of it goes out any more."""
        self._pieces.clear()
        self.num_bytes = 0


class SharedCredit:
    """What the streams of one link session may have beyond their first credit, together."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes

    def take(self, num_bytes: int) -> bool:
        """Whether there was so much left, which is taken then."""
        if num_bytes > self.num_bytes:
            return False
        self.num_bytes -= num_bytes
        return True


class Incoming:
    """The credit that a reader has given, and what of it is used up."""

    def __init__(self, first_bytes: int, most_bytes: int, shared: SharedCredit) -> None:
        self._first_bytes = first_bytes
        self._most_bytes = most_bytes
        self._shared = shared
        self._all_bytes = first_bytes
        """What may be under way or lie here unread."""
        self._credit_bytes = first_bytes
        """What the other end may still send."""
        self._read_bytes = 0
        """Since credit was given last."""

    def arrive(self, num_bytes: int) -> None:
        """Data has come.

        Raises:
            BadFrame: more than there was credit for.
        """
        if num_bytes > self._credit_bytes:
            raise BadFrame(f"a stream sent {num_bytes} bytes, and had credit for {self._credit_bytes}")
        self._credit_bytes -= num_bytes

    def read(self, num_bytes: int) -> int:
        """Data that had come was taken by its reader: how much credit it gives now."""
        self._read_bytes += num_bytes
        if self._read_bytes * 2 < self._all_bytes:
            return 0
        given = self._read_bytes
        self._read_bytes = 0
        if 2 * self._all_bytes <= self._most_bytes and self._shared.take(self._all_bytes):
            given += self._all_bytes
            self._all_bytes *= 2
        self._credit_bytes += given
        return given

    def end(self) -> None:
        """The stream is over: others may have what it had. Safe to call twice."""
        self._shared.num_bytes += self._all_bytes - self._first_bytes
        self._all_bytes = self._first_bytes
