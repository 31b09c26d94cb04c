"""How slow the ways between devices are now, against what was measured of them before, from how long hops took. Pure.

A hop is timed there and back, for no two clocks agree to the millisecond: which of the two ways is slow is not known,
and both count as slow. What counts is by how many seconds the least hop of a look is late: most of what makes a hop
late (a busy machine, a step that lasts, other messages, a lost packet) does not strike all of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shardnet.plan import Link
from shardnet.policy.observing import FORGOTTEN_AFTER, TELLING_SHARE, WEIGHT

Way = tuple[str, str]
"""From which device to which."""
LEAST_TRIPS = 3
"""Looks with fewer hops of a way tell nothing of it."""
LEAST_EXTRA_S = 5e-3
"""What is late by less, or by less than `TELLING_SHARE` of a lap, is as it should be: it is not worth a move, and that
much may come of what both ends do besides."""


class Trip(NamedTuple):
    """A hop of decoding, and the answer to it."""

    source: str
    target: str
    seconds: float
    num_bytes: int
    """That had to arrive before it was answered."""


class _Seen(NamedTuple):
    """What is known of a way."""

    late_s: float
    """Longer than it should take; of each look the least, averaged."""
    num_bytes: int
    unseen: int = 0
    """How many looks ago it was measured."""


@dataclass(frozen=True)
class LinkPace:
    """How late hops are on each way, averaged over the last looks (EWMA)."""

    ways: Mapping[Way, _Seen] = field(default_factory=dict)
    usual_s: float = math.inf
    """The least that any way was ever late: what hops take beside the links."""
    least_s: float = LEAST_EXTRA_S
    """Less than that says nothing."""

    def seen(self, trips: Sequence[Trip], links: Mapping[Way, Link], lap_s: float) -> LinkPace:
        """With one more look.

        Args:
            links: as measured before, those of all trips among them.
            lap_s: about how long a token takes to go round the ring.
        """
        on_way: defaultdict[Way, list[tuple[float, int]]] = defaultdict(list)
        for trip in trips:
            way = trip.source, trip.target
            due_s = _due_s(links, way, trip.num_bytes)
            if due_s is not None:
                on_way[way].append((trip.seconds - due_s, trip.num_bytes))
        now = {way: _Seen(*min(found)) for way, found in on_way.items() if len(found) >= LEAST_TRIPS}
        known = {way: each._replace(unseen=each.unseen + 1) for way, each in self.ways.items() if way not in now}
        known = {way: each for way, each in known.items() if each.unseen < FORGOTTEN_AFTER}
        least_s = max(LEAST_EXTRA_S, TELLING_SHARE * lap_s) if now else self.least_s
        averaged = {way: _averaged(self.ways.get(way, each), each, least_s) for way, each in now.items()}
        usual_s = min([self.usual_s, *(max(each.late_s, 0.0) for each in averaged.values())])
        return LinkPace({**known, **averaged}, usual_s, least_s)

    def without(self, devices: Collection[str]) -> LinkPace:
        """The same where others have come under these names, of whose links nothing is known."""
        ways = {way: each for way, each in self.ways.items() if not {*way} & {*devices}}
        return LinkPace(ways, self.usual_s, self.least_s)

    def slowdown(self, devices: Collection[str], links: Mapping[Way, Link]) -> dict[Way, float]:
        """By what factor links are slower than was measured of them: of those that are.

        A device that is slow on its ways to all neighbours, two or more, is taken to be as slow on all other ways: it
        has been carried away, and not one of the others. What else is not in use is taken to be as it should be.
        """
        extra_s: dict[Way, float] = {}
        for (source, target), seen in self.ways.items():
            extra_s[source, target] = self._extra_s(seen)
            extra_s.setdefault((target, source), extra_s[source, target])
        for device, everywhere_s in _slow_everywhere(extra_s):
            for other in devices:
                extra_s.setdefault((device, other), everywhere_s)
                extra_s.setdefault((other, device), everywhere_s)
        usual_bytes = max((seen.num_bytes for seen in self.ways.values()), default=0)
        slowdown = {}
        for way, seconds in extra_s.items():
            num_bytes = self.ways[way].num_bytes if way in self.ways else usual_bytes
            due_s = _due_s(links, way, num_bytes)
            if seconds > 0 and due_s is not None:
                slowdown[way] = 1 + seconds / max(due_s, _LEAST_DUE_S)
        return slowdown

    def _extra_s(self, seen: _Seen) -> float:
        """By how much a way is slower than it should be."""
        extra_s = seen.late_s - self.usual_s
        return extra_s if extra_s >= self.least_s else 0.0


_LEAST_DUE_S = 1e-6


def _averaged(before: _Seen, now: _Seen, least_s: float) -> _Seen:
    """What is off by so much that it says something stands for itself: the average would come late, and stay long."""
    if abs(now.late_s - before.late_s) >= least_s:
        return now
    return now._replace(late_s=before.late_s + WEIGHT * (now.late_s - before.late_s))


def _slow_everywhere(extra_s: Mapping[Way, float]) -> list[tuple[str, float]]:
    """Devices whose ways to all neighbours are slow, and by how much at least; the slowest first."""
    ways_of: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for (source, target), seconds in extra_s.items():
        ways_of[source][target] = max(seconds, extra_s[target, source])
    least_s = {device: min(ways.values()) for device, ways in ways_of.items() if len(ways) > 1}
    slow = [(device, seconds) for device, seconds in least_s.items() if seconds > 0]
    return sorted(slow, key=lambda each: -each[1])


def _due_s(links: Mapping[Way, Link], way: Way, num_bytes: int) -> float | None:
    """How long a hop and its answer should take; None where there is no link, or none back."""
    there, back = links.get(way), links.get((way[1], way[0]))
    return None if there is None or back is None else there.seconds(num_bytes) + back.latency_s
