"""What the stages of a cluster did in the last seconds, as far as somebody has looked at them twice."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shardnet.cluster.remote_stage import clock_offsets
from shardnet.cluster.ring import Ring
from shardnet.process.threads import on_thread
from shardnet.timeline.clocks import ClockOffset
from shardnet.timeline.recorder import Totals
from shardnet.timeline.timeline import Shares, shares_from_totals
from shardnet.transport.base import Transport

WINDOW_S = 5.0
"""What "the last seconds" are, where somebody has looked so long ago."""
LEAST_S, MOST_S = 0.5, 15.0
"""How long ago the other look may be."""
OFFSETS_S = 60.0
"""After which clocks of devices are compared again."""


class Look(NamedTuple):
    """What was counted at a time."""

    at_s: float
    num_tokens: int
    """Of all answers of this cluster so far."""
    totals: tuple[Totals | None, ...]
    """Of each stage of the ring, where it has answered."""


class RecentWork:
    """Keeps the looks of the last seconds. Safe to use from several threads."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._ring: Ring | None = None
        self._looks: deque[Look] = deque()
        self._offsets: Mapping[str, ClockOffset] | None = None
        self._offsets_of: tuple[tuple[str, ...], float] = (), 0.0
        """Of which devices, and when."""

    def look(self, ring: Ring | None, now: Look) -> tuple[float | None, tuple[Shares | None, ...]]:
        """Add a look, and return tokens per second and what each stage's time went to since an earlier one; None where
        that is not known yet."""
        with self._lock:
            if ring is not self._ring:
                self._ring = ring
                self._looks = deque(each._replace(totals=()) for each in self._looks)
            while self._looks and self._looks[0].at_s < now.at_s - MOST_S:
                self._looks.popleft()
            before = _before(self._looks, now.at_s)
            self._looks.append(now)
            offsets = self._known_offsets([each.device for each in now.totals if each is not None], now.at_s)
        if before is None:
            return None, tuple(None for _ in now.totals)
        tokens_per_s = max(0, now.num_tokens - before.num_tokens) / (now.at_s - before.at_s)
        return tokens_per_s, shares_between(before, now, offsets)

    def _known_offsets(self, devices: Sequence[str], now_s: float) -> Mapping[str, ClockOffset] | None:
        """How far the devices' clocks are ahead, by the last comparison; None before the first."""
        names = tuple(sorted(set(devices)))
        known, at_s = self._offsets_of
        if names and (known != names or now_s > at_s + OFFSETS_S):
            self._offsets_of = names, now_s
            on_thread("shardnet-clocks", lambda: self._compare(names))
        return self._offsets

    def _compare(self, devices: Sequence[str]) -> None:
        offsets = clock_offsets(self._transport, devices)
        with self._lock:
            self._offsets = offsets


def shares_between(before: Look, now: Look, offsets: Mapping[str, ClockOffset] | None) -> tuple[Shares | None, ...]:
    """What each stage's time went to between two looks; None for one that was not looked at both times, or whose clock
    is not known."""
    if offsets is None or len(before.totals) != len(now.totals):
        return tuple(None for _ in now.totals)
    pairs = zip(before.totals, now.totals, strict=True)
    return tuple(_share(one, other, now.at_s - before.at_s, offsets) for one, other in pairs)


def _before(looks: Sequence[Look], now_s: float) -> Look | None:
    """The newest that is old enough to tell what the last seconds were; a younger one where none is."""
    old = [each for each in looks if each.at_s <= now_s - WINDOW_S]
    young = [each for each in looks if each.at_s <= now_s - LEAST_S]
    return old[-1] if old else next(iter(young), None)


def _share(
    before: Totals | None, now: Totals | None, elapsed_s: float, offsets: Mapping[str, ClockOffset]
) -> Shares | None:
    if before is None or now is None or now.num_steps < before.num_steps or now.device not in offsets:
        return None
    came = {source: (count, wire_s) for source, count, wire_s in before.messages_from}
    messages = []
    for source, count, wire_s in now.messages_from:
        count_before, wire_before_s = came.get(source, (0, 0.0))
        messages.append((source, count - count_before, wire_s - wire_before_s))
    new = now._replace(compute_s=now.compute_s - before.compute_s, messages_from=tuple(messages))
    gone = {source for source, _, _ in messages if source not in offsets}
    return shares_from_totals(new, new.corrected_wire_s(offsets, gone), elapsed_s)
