"""Links, and the fastest way of a payload from one device to another, over relays where that is faster. Pure.

A relay forwards the payload and costs neither memory nor compute. A direct link wins a tie, then fewer relays.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

TIE = 1e-12
"""Relative difference below which two times count as equal: sums of the same numbers in another order."""


@dataclass(frozen=True)
class Link:
    """The directed way from one device to another."""

    source: str
    target: str
    latency_s: float
    bytes_per_s: float

    def seconds(self, num_bytes: float) -> float:
        """Seconds that `num_bytes` take over this link."""
        return self.latency_s + num_bytes / self.bytes_per_s


class Routes:
    """Fastest routes over some links, found when first asked for and then remembered."""

    def __init__(self, links: Iterable[Link]) -> None:
        self._direct = {(link.source, link.target): link for link in links}
        self._leaving: dict[str, list[Link]] = {}
        for link in self._direct.values():
            self._leaving.setdefault(link.source, []).append(link)
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
        limit = direct.seconds(num_bytes) * (1 - TIE) if direct else float("inf")
        best = {source: (0.0, 0)}
        came_by: dict[str, Link] = {}
        queue = [(0.0, 0, source)]
        while queue:
            reached_s, num_links, device = heapq.heappop(queue)
            if device == target:
                return _walk_back(came_by, source, target)
            if (reached_s, num_links) > best[device]:
                continue
            for link in self._leaving.get(device, ()):
                arrival = (reached_s + link.seconds(num_bytes), num_links + 1)
                if arrival[0] < limit and arrival < best.get(link.target, (float("inf"), 0)):
                    best[link.target] = arrival
                    came_by[link.target] = link
                    heapq.heappush(queue, (*arrival, link.target))
        return (direct,) if direct else None


def _walk_back(came_by: dict[str, Link], source: str, target: str) -> tuple[Link, ...]:
    links: list[Link] = []
    while target != source:
        links.append(came_by[target])
        target = links[-1].source
    return tuple(reversed(links))
