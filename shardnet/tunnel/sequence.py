"""The numbering of a link session: frames arrive in order, once, whatever connections they take. Pure."""

from __future__ import annotations

from collections import deque

from shardnet.tunnel.frames import BadFrame


class SentFrames:
    """The numbered frames of the sending end: what goes out next, and what the other end may need again."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: deque[bytes] = deque()
        """Gone out over the present connection."""
        self._waiting: deque[bytes] = deque()
        """Not gone out over it."""
        self._num_acknowledged = 0
        self._num_gone_out = 0
        """Over any connection: the other end may have them, whatever it last said."""
        self.num_bytes = 0
        """Of all frames that are not acknowledged."""

    @property
    def next_number(self) -> int:
        """Of the frame that is added next."""
        return self._num_acknowledged + len(self._kept) + len(self._waiting) + 1

    @property
    def num_frames(self) -> int:
        """That are not acknowledged."""
        return len(self._kept) + len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether no more should be added before something is acknowledged."""
        return self.num_bytes >= self._most_bytes

    @property
    def num_waiting(self) -> int:
        """How many frames have not gone out over the present connection."""
        return len(self._waiting)

    def add(self, frame: bytes) -> None:
        """A frame that bears `next_number`."""
        self._waiting.append(frame)
        self.num_bytes += len(frame)

    def take(self) -> bytes:
        """The next frame that goes out. There must be one."""
        frame = self._waiting.popleft()
        self._kept.append(frame)
        self._num_gone_out = max(self._num_gone_out, self._num_acknowledged + len(self._kept))
        return frame

    def acknowledge(self, num_received: int) -> None:
        """The other end has so many.

        Raises:
            BadFrame: fewer than it had, or more than were sent.
        """
        if not self._num_acknowledged <= num_received <= self._num_gone_out:
            possible = f"{self._num_acknowledged} to {self._num_gone_out}"
            raise BadFrame(f"{num_received} frames are acknowledged, and not {possible}")
        for _ in range(num_received - self._num_acknowledged):
            self.num_bytes -= len((self._kept or self._waiting).popleft())
        self._num_acknowledged = num_received

    def resume(self, num_received: int) -> int:
        """Begin with a new connection: what the other end lacks goes out first. It may have acknowledged more over the
        last connection than it says here: what it said first may have come last.

        Returns:
            How many bytes go out again.

        Raises:
            BadFrame: the other end has more than was sent.
        """
        self.acknowledge(max(num_received, self._num_acknowledged))
        again_bytes = sum(map(len, self._kept))
        self._waiting.extendleft(reversed(self._kept))
        self._kept.clear()
        return again_bytes


class ReceivedFrames:
    """The numbered frames of the receiving end."""

    def __init__(self) -> None:
        self.num_received = 0

    def is_new(self, number: int) -> bool:
        """Whether the frame is the next one, which counts as received from now on; or one that came before.

        Raises:
            BadFrame: one that should have come before it has not.
        """
        if number == self.num_received + 1:
            self.num_received = number
            return True
        if number > self.num_received:
            raise BadFrame(f"frame {number} came after frame {self.num_received}")
        return False
