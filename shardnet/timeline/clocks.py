"""The clocks of several hosts, brought together: by how much each is ahead of the coordinator's.

Times are integers of `clock_ns`: one clock per host, with an arbitrary zero.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

clock_ns = time.monotonic_ns
"""The clock of every span. Not `time_ns`: that one jumps when the date is set."""


@dataclass(frozen=True)
class ClockOffset:
    """How far a device's clock is ahead of the coordinator's."""

    offset_ns: int
    uncertainty_ns: int
    """The true offset is within this of `offset_ns`."""
    at_ns: int = 0
    """When that held, on the device's clock."""


def offset_from_pings(samples: Sequence[tuple[int, int, int]]) -> ClockOffset:
    """A remote clock's offset from some pings.

    Each ping bounds the offset: the remote clock was read after the ping left and before its answer came, so the
    offset lies between `remote - received` and `remote - sent`. All pings' bounds are intersected (Marzullo, 1984),
    which is never worse than NTP's rule of taking the shortest ping, and better where the shortest way there and the
    shortest way back were different pings. Bounds that contradict each other mean that a clock was stopped or
    stepped meanwhile; then the shortest ping alone decides.

    Args:
        samples: (sent_ns, remote_ns, received_ns); the first and last on our clock, the middle on the remote one.

    Raises:
        ValueError: there are no samples, or one was received before it was sent.
    """
    if not samples:
        raise ValueError("a clock offset needs at least one ping, but there is none.")
    for sent, _, received in samples:
        if received < sent:
            raise ValueError(f"a ping must be received after it was sent, but {received} < {sent}.")
    shortest = min(samples, key=lambda sample: sample[2] - sample[0])
    least = max(remote - received for _, remote, received in samples)
    most = min(remote - sent for sent, remote, _ in samples)
    if least > most:
        sent, remote, received = shortest
        least, most = remote - received, remote - sent
    return ClockOffset((least + most) // 2, (most - least + 1) // 2, at_ns=shortest[1])


class Clock:
    """Turns a device's times into the coordinator's; interpolates where the offset was measured several times.

    Clocks of cheap boards drift by 50 us a second and more: a run of minutes wants an offset before it and one after.
    """

    def __init__(self, offsets: Sequence[ClockOffset]) -> None:
        self._offsets = sorted(offsets, key=lambda offset: offset.at_ns)
        self._times = [offset.at_ns for offset in self._offsets]

    def to_coordinator(self, ns: int) -> int:
        if not self._offsets:
            return ns
        after = bisect_right(self._times, ns)
        if after == 0 or after == len(self._offsets):
            return ns - self._offsets[min(after, len(self._offsets) - 1)].offset_ns
        left, right = self._offsets[after - 1], self._offsets[after]
        weight = (ns - left.at_ns) / (right.at_ns - left.at_ns)
        return ns - round(left.offset_ns + weight * (right.offset_ns - left.offset_ns))


def offset_ns_of(offsets: Mapping[str, ClockOffset], device: str) -> int:
    """By how much a device's clock is ahead; 0 where that was not measured."""
    offset = offsets.get(device)
    return offset.offset_ns if offset else 0
