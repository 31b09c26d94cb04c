"""A problem by classes of identical devices, with what bounds need of it: reach, fits, and how many units count. Pure.

Index letters as in `tables`; q is a way of counting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardnet.planner.costs import ROUNDING
from shardnet.planner.tables import Floats, Ints, Tables

PIECE_SHARE = 0.9
"""Units at least this share of the median one count as pieces."""


@dataclass(frozen=True)
class Second:
    """What a walk may use up besides its cost: seconds of lap where joules are sought, and the other way round.

    Attributes:
        unit: [u, d]; hop: [k, d, e]; most: of both together, above 0.
    """

    unit: Floats
    hop: Floats
    most: float


@dataclass(frozen=True)
class Target:
    """What a walk costs, and what it may not exceed.

    Attributes:
        unit_cost: [u, d]; hop_cost: [k, d, e]: s of lap, or J; inf for a hop that is not allowed.
        busy_limit_s: most busy seconds of one device or link in a lap.
        second: another amount that is limited; None for none.
    """

    unit_cost: Floats
    hop_cost: Floats
    busy_limit_s: float = np.inf
    second: Second | None = None


class ByClass:
    """The problem by classes, and what may be on them under a target.

    Attributes:
        seconds, cost: [u, c]; hop_cost: [k, c, c'], between two different devices.
        second, second_hop: the same of the second amount; empty where there is none.
        last_fit: [u, c] the last unit that fits with unit u in one visit; u - 1 where u alone does not.
        piece: [q, u, c] 1 for units about as large as the median one, 0 for small ones, and for the first and the last
            unit what a device holds less beside them; q = 0 counts what is large by time, 1 by memory.
        useful: [c] 1 for classes on some ring over allowed hops from a device that may hold unit 0, else 0.
        room, time: [c] bytes and busy seconds, and places: [q, c] pieces, that all devices of a class can hold.
    """

    def __init__(self, tables: Tables, target: Target) -> None:
        self.tables, self.target = tables, target
        first = np.array([devices[0] for devices in tables.members])
        self.first: Ints = first
        self.count: Floats = np.array([len(devices) for devices in tables.members], dtype=float)
        self.seconds, self.cost = tables.seconds[:, first], target.unit_cost[:, first]
        self.hop_cost = self._hops_by_class(target.hop_cost)
        self.second = np.zeros((tables.num_units, 0))
        self.second_hop = np.zeros((len(tables.payload_bytes), 0, 0))
        if target.second is not None:
            self.second, self.second_hop = target.second.unit[:, first], self._hops_by_class(target.second.hop)
        self.capacity = np.array([attainable(tables.memory, limit) for limit in tables.capacity[first]])
        self.room: Floats = self.capacity * self.count
        self.time: Floats = np.full(len(first), target.busy_limit_s) * self.count
        self.last_fit = self._last_fit()
        self.useful = self._in_reach()
        pieces = self._pieces(self.seconds.mean(axis=1)), self._pieces(tables.memory)
        self.piece, self.places = np.stack([piece for piece, _ in pieces]), np.stack([places for _, places in pieces])

    def _in_reach(self) -> Floats:
        """1 for classes on some ring over allowed hops from a device that may hold unit 0, else 0."""
        tables, num_classes = self.tables, len(self.first)
        hops: NDArray[np.bool_] = np.isfinite(self.hop_cost[np.unique(tables.payload[:-1])]).max(axis=0, initial=False)
        there: NDArray[np.bool_] = np.ones(num_classes, dtype=bool)
        back = there.copy()
        if tables.problem.pin_embedding:
            there = np.eye(num_classes, dtype=bool)[tables.class_of[tables.source]]
            back[:] = np.isfinite(self.target.hop_cost[tables.payload[-1], self.first, tables.source])
        reached = -1
        while reached < there.sum() + back.sum():
            reached = int(there.sum() + back.sum())
            there |= hops[there].any(axis=0)
            back |= hops[:, back].any(axis=1)
        return (there & back).astype(float)

    def held(self, units: Ints, ends: tuple[int, ...] = ()) -> Floats:
        """[c] how many of the units one device can hold beside the ends; -inf where these alone do not fit."""
        tables, limit_s, ends_at = self.tables, self.target.busy_limit_s, list(ends)
        room = self.capacity * (1 + ROUNDING) - tables.memory[ends_at].sum()
        left_s = limit_s * (1 + ROUNDING) - self.seconds[ends_at].sum(axis=0)
        by_memory = np.searchsorted(np.cumsum(np.sort(tables.memory[units])), room, "right")
        by_time = (np.cumsum(np.sort(self.seconds[units], axis=0), axis=0) <= left_s).sum(axis=0)
        return np.where((room >= 0) & (left_s >= 0), np.minimum(by_memory, by_time) * self.useful, -np.inf)

    def _pieces(self, size: Floats) -> tuple[Floats, Floats]:
        """What each unit counts [u, c]: 1 for large ones, an end as many as it displaces; and what a class can hold."""
        piece, last = np.zeros(self.seconds.shape), self.tables.num_units - 1
        middle = size[1:last]
        large = np.flatnonzero(middle >= PIECE_SHARE * np.median(middle)) + 1 if len(middle) else np.zeros(0, np.int64)
        piece[large] = 1
        most = self.held(large)
        head = most - np.maximum(self.held(large, (last,)), 0)
        both = most - self.held(large, (0, last))  # inf where they do not fit together
        piece[0] = np.minimum(most - np.maximum(self.held(large, (0,)), 0), both - head)
        piece[last] += head
        return piece, most * self.count

    def _hops_by_class(self, hops: Floats) -> Floats:
        by_class = hops[:, self.first[:, None], self.first[None]].copy()
        for c, devices in enumerate(self.tables.members):
            by_class[:, c, c] = hops[:, devices[0], devices[1]] if len(devices) > 1 else np.inf
        return by_class

    def _last_fit(self) -> Ints:
        tables = self.tables
        bytes_before = np.concatenate([[0.0], np.cumsum(tables.memory)])
        last = np.empty(self.seconds.shape, dtype=np.int64)
        for c in range(len(self.first)):
            fits = np.searchsorted(bytes_before, bytes_before[:-1] + self.capacity[c] * (1 + ROUNDING), "right") - 2
            if np.isfinite(self.target.busy_limit_s):
                busy_before = np.concatenate([[0.0], np.cumsum(self.seconds[:, c])])
                most = busy_before[:-1] + self.target.busy_limit_s * (1 + ROUNDING)
                fits = np.minimum(fits, np.searchsorted(busy_before, most, "right") - 2)
            last[:, c] = fits
        if tables.problem.pin_embedding:
            elsewhere = np.arange(len(self.first)) != tables.class_of[tables.source]
            last[0, elsewhere] = -1
        return last


def attainable(sizes: Floats, limit: float) -> float:
    """The largest sum of some of the sizes within the limit; the limit itself where they are of too many kinds."""
    kinds, counts = np.unique(sizes[sizes > 0], return_counts=True)
    if len(kinds) == 0 or len(kinds) > 3 or sizes.sum() <= limit:
        return limit
    sums = np.zeros(1)
    for size, count in zip(kinds[:-1], counts[:-1]):
        sums = (sums[:, None] + size * np.arange(count + 1)[None]).ravel()
        sums = sums[sums <= limit * (1 + ROUNDING)]
    largest = np.minimum(counts[-1], np.floor((limit * (1 + ROUNDING) - sums) / kinds[-1]))
    return float(min(limit, (sums + largest * kinds[-1]).max()))
