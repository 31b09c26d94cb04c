"""Links, and the fastest way of a payload from one device to another, over relays where that is faster. Pure.

A relay forwards the payload and costs neither memory nor compute. A direct link wins a tie, then fewer relays, then
radios that spend less, then the way whose slowest link is quickest: never a name.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Any

from shardnet.plan import Link

MOST_SPARSE = 64
"""Devices up to which routes are searched link by link; beyond, device by device in arrays."""
FEW_LINKS = 8
"""From each device, on average: so few are searched link by link in clusters of any size."""
TIE = 1e-12
"""Relative difference below which two times count as equal: sums of the same numbers in another order."""


_Arrival = tuple[float, int, float, float]
"""Seconds, links, joules of the radios for a byte, seconds of the slowest link; the least one is the best."""


class Routes:
    """Fastest routes over some links, found when first asked for and then remembered.

    Args:
        radio_j_per_byte: by device, what its radio takes for each byte; 0 where it is not named.
        relays: whether there are any.
    """

    def __init__(
        self, links: Iterable[Link], radio_j_per_byte: Mapping[str, float] | None = None, *, relays: bool = True
    ) -> None:
        self._direct = {(link.source, link.target): link for link in links}
        self._radio_j = radio_j_per_byte or {}
        self._relays = relays
        self._leaving: dict[str, list[Link]] = {}
        for link in self._direct.values():
            self._leaving.setdefault(link.source, []).append(link)
        self._ways: _Ways | None = None
        self._found: dict[tuple[str, str, float], tuple[Link, ...] | None] = {}

    def links(self, source: str, target: str, num_bytes: float) -> tuple[Link, ...] | None:
        """The links that the payload crosses, in order; empty on one device; None where there is no way."""
        if source == target:
            return ()
        key = (source, target, num_bytes)
        if key not in self._found:
            self._found[key] = self._search(source, target, num_bytes)
        return self._found[key]

    def seconds(self, source: str, target: str, num_bytes: float) -> float | None:
        """Seconds of the fastest route; None where there is no way."""
        links = self.links(source, target, num_bytes)
        return None if links is None else sum(link.seconds(num_bytes) for link in links)

    def _search(self, source: str, target: str, num_bytes: float) -> tuple[Link, ...] | None:
        """Dijkstra's algorithm, which never looks beyond what the direct link takes."""
        direct = self._direct.get((source, target))
        if not self._relays:
            return (direct,) if direct else None
        if len(self._leaving) > MOST_SPARSE and len(self._direct) > FEW_LINKS * len(self._leaving):
            self._ways = self._ways or _Ways(self._direct, self._radio_j)
            return self._ways.search(source, target, num_bytes)
        limit = direct.seconds(num_bytes) * (1 - TIE) if direct else float("inf")
        best: dict[str, _Arrival] = {source: (0.0, 0, 0.0, 0.0)}
        came_by: dict[str, Link] = {}
        queue = [(best[source], source)]
        while queue:
            reached, device = heapq.heappop(queue)
            if device == target:
                return _walk_back(came_by, source, target)
            if reached > best[device]:
                continue
            for link in self._leaving.get(device, ()):
                arrival = self._arrival(reached, link, num_bytes)
                if arrival[0] < limit and arrival < best.get(link.target, (float("inf"), 0, 0.0, 0.0)):
                    best[link.target] = arrival
                    came_by[link.target] = link
                    heapq.heappush(queue, (arrival, link.target))
        return (direct,) if direct else None

    def _arrival(self, reached: _Arrival, link: Link, num_bytes: float) -> _Arrival:
        seconds, (at_s, num_links, radio_j, slowest_s) = link.seconds(num_bytes), reached
        radio_j += self._radio_j.get(link.source, 0.0) + self._radio_j.get(link.target, 0.0)
        return at_s + seconds, num_links + 1, radio_j, max(slowest_s, seconds)


def _walk_back(came_by: dict[str, Link], source: str, target: str) -> tuple[Link, ...]:
    links: list[Link] = []
    while target != source:
        links.append(came_by[target])
        target = links[-1].source
    return tuple(reversed(links))


class _Ways:
    """The links of a large cluster as matrices, for Dijkstra's algorithm a device at a time."""

    def __init__(self, direct: Mapping[tuple[str, str], Link], radio_j: Mapping[str, float]) -> None:
        import numpy as np  # here, so that small problems are read without it

        self._np, self._direct = np, direct
        names = dict.fromkeys(name for ends in direct for name in ends)
        self._names = list(names)
        self._index = {name: i for i, name in enumerate(self._names)}
        self._radio_j = np.array([radio_j.get(name, 0.0) for name in names])
        shape = (len(names), len(names))
        self._latency_s, self._s_per_byte = np.full(shape, np.inf), np.zeros(shape)
        for (source, target), link in direct.items():
            ends = self._index[source], self._index[target]
            self._latency_s[ends], self._s_per_byte[ends] = link.latency_s, 1 / link.bytes_per_s

    def search(self, source: str, target: str, num_bytes: float) -> tuple[Link, ...] | None:
        """The same answer as searching link by link."""
        np, direct = self._np, self._direct.get((source, target))
        if source not in self._index or target not in self._index:
            return None
        limit = direct.seconds(num_bytes) * (1 - TIE) if direct else np.inf
        start, end, count = self._index[source], self._index[target], len(self._names)
        best, came = np.full((4, count), np.inf), np.full(count, -1)  # rows as in _Arrival
        waiting = np.full(count, np.inf)
        best[:, start] = waiting[start] = 0.0
        while True:
            here = int(waiting.argmin())
            if not waiting[here] < limit:
                return (direct,) if direct else None
            if here == end:
                return self._walk_back(came, start, end)
            seconds = self._latency_s[here] + num_bytes * self._s_per_byte[here]
            at_s, num_links, radio_j, slowest_s = best[:, here]
            arrive = np.empty_like(best)
            arrive[0], arrive[1] = at_s + seconds, num_links + 1
            arrive[2], arrive[3] = radio_j + self._radio_j[here] + self._radio_j, np.maximum(slowest_s, seconds)
            better = self._before(arrive, best) & (arrive[0] < limit)
            best[:, better], came[better] = arrive[:, better], here
            waiting[here] = np.inf
            waiting[better] = arrive[0, better]

    def _before(self, arrive: Any, best: Any) -> Any:
        """Where an arrival is better than the best one so far, row by row."""
        np, better, tied = self._np, False, True
        for mine, other in zip(arrive, best):
            better, tied = better | (tied & (mine < other)), tied & (mine == other)
        return np.asarray(better)

    def _walk_back(self, came: Any, start: int, end: int) -> tuple[Link, ...]:
        links: list[Link] = []
        while end != start:
            before = int(came[end])
            links.append(self._direct[self._names[before], self._names[end]])
            end = before
        return tuple(reversed(links))
