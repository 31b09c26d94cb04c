"""How long the last hops of a stage took, there and back: what the links to the next devices are like now.

By the sender's clock alone: from when a hop is handed over until it is answered, which the receiver does before it
computes. What waits behind something large says nothing of the link. So hops that are sent while the next stage has not
begun with a chunk of a prompt, or while a copy of sessions is on its way, are not counted, and what else was on its way
is told with each.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

from shardnet.timeline.clocks import clock_ns
from shardnet.transport.messages import Copied, HopTime

MOST_KEPT = 32
COPY_S = 5.0
"""After this, a copy has arrived that nobody has asked for more of."""


class HopsTaken(NamedTuple):
    """What is told of them."""

    num_hops: int
    """Counted since the stage began."""
    last: tuple[HopTime, ...]
    """The newest of these, oldest first."""


class HopTimes:
    """Of one stage. Safe to use from several threads; a hop costs a few microseconds."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._last: deque[HopTime] = deque(maxlen=MOST_KEPT)
        self._num_hops = 0
        self._due_bytes: Counter[str] = Counter()
        """Of the hops to each device that are not answered yet."""
        self._bulk_bytes: Counter[str] = Counter()
        """Of the chunks of prompts with which each device has not begun yet."""
        self._copied_ns: dict[int, int] = {}
        """By the first unit of what is followed, when a copy left with which its follower is not done yet."""

    def taken(self) -> HopsTaken:
        with self._lock:
            return HopsTaken(self._num_hops, tuple(self._last))

    def hop(self, device: str, num_bytes: int, send: Callable[[], Future[Any]]) -> Future[Any]:
        """Send a hop of decoding and time it."""
        began_ns = clock_ns()
        with self._lock:
            self._due_bytes[device] += num_bytes
            counts = not self._bulk_bytes[device] and not self._is_copying(began_ns)
            hop = HopTime(device, 0.0, self._due_bytes[device])
        sent = send()
        sent.add_done_callback(partial(self._answered, hop, num_bytes, began_ns if counts else None))
        return sent

    def bulk_hop(self, device: str, num_bytes: int, taken: Future[Any]) -> None:
        """A chunk of a prompt was sent."""
        with self._lock:
            self._bulk_bytes[device] += num_bytes
        taken.add_done_callback(partial(self._begun, device, num_bytes))

    def bulk_bytes(self, device: str) -> int:
        """Of the chunks of prompts with which a device has not begun yet: what is sent next may be on its way behind
        them."""
        return self._bulk_bytes[device]

    def copy(self, first_unit: int, copied: Future[Copied]) -> None:
        """A follower has asked for what it lacks: what it was given before has arrived."""
        with self._lock:
            self._copied_ns.pop(first_unit, None)
        copied.add_done_callback(partial(self._copy_leaves, first_unit))

    def _answered(self, hop: HopTime, num_bytes: int, began_ns: int | None, sent: Future[Any]) -> None:
        seconds = 0.0 if began_ns is None else (clock_ns() - began_ns) / 1e9
        with self._lock:
            self._due_bytes[hop.device] -= num_bytes
            if began_ns is not None and sent.exception() is None:
                self._num_hops += 1
                self._last.append(hop._replace(seconds=seconds))

    def _begun(self, device: str, num_bytes: int, _: Future[Any]) -> None:
        with self._lock:
            self._bulk_bytes[device] -= num_bytes

    def _copy_leaves(self, first_unit: int, copied: Future[Copied]) -> None:
        if copied.exception() is None and copied.result().parts:
            with self._lock:
                self._copied_ns[first_unit] = clock_ns()

    def _is_copying(self, now_ns: int) -> bool:
        """The lock is held."""
        return any(now_ns - left_ns < COPY_S * 1e9 for left_ns in self._copied_ns.values())
