"""Which stream of a link session sends next. Pure.

Deficit round robin in which streams that send little come first, after fq_codel (RFC 8290, section 4): whoever has
sent nothing for a round is *new*, and comes before all that are not until it has sent a quantum. Differs: there is no
dropping of packets, for what does not fit waits at its sender; and a new stream that has sent less than a quantum and
pauses is new again in the same round, for one message may come in several pieces.
"""

from __future__ import annotations

from collections import deque


class Turns:
    """The streams that have something to send, by their numbers."""

    def __init__(self, quantum_bytes: int) -> None:
        self._quantum_bytes = quantum_bytes
        self._left: dict[int, int] = {}
        """What each may send before others come, of those in the two lists."""
        self._new: deque[int] = deque()
        self._old: deque[int] = deque()
        self._ready: set[int] = set()
        self._first: set[int] = set()
        """Those that have not sent the quantum that they had when they were new."""

    def wake(self, stream: int) -> None:
        """The stream has something to send."""
        self._ready.add(stream)
        if stream not in self._left:
            self._left[stream] = self._quantum_bytes
            self._first.add(stream)
            self._new.append(stream)
        elif stream in self._first and stream not in self._new:
            self._old.remove(stream)
            self._new.append(stream)

    def sleep(self, stream: int) -> None:
        """The stream has nothing to send for now."""
        self._ready.discard(stream)

    def forget(self, stream: int) -> None:
        """The stream is over."""
        self._ready.discard(stream)
        self._first.discard(stream)
        if self._left.pop(stream, None) is not None:
            turns = self._new if stream in self._new else self._old
            turns.remove(stream)

    def charge(self, stream: int, num_bytes: int) -> None:
        """The stream, which `next` has named, has sent so much."""
        self._left[stream] -= num_bytes

    def next(self, only_new: bool = False) -> int | None:
        """Whose turn it is, of those that have something to send, or of those of them that send little."""
        while self._new or (self._old and not only_new):
            turns = self._new or self._old
            stream = turns[0]
            if self._left[stream] <= 0:
                self._left[stream] += self._quantum_bytes
                self._first.discard(stream)
            elif stream in self._ready:
                return stream
            elif turns is self._old:
                turns.popleft()
                del self._left[stream]
                self._first.discard(stream)
                continue
            turns.popleft()
            self._old.append(stream)
        return None
