"""Lower bounds: the cheapest walk through the units when memory is counted per visit and priced in all. Pure.

A walk visits devices in turn and places consecutive units at each visit. Each visit alone must fit its device, but a
walk may come back to a full one. What it then uses too much is charged at a price per class of identical devices
(Lagrange), and the prices that give the best bound are found by subgradients. Devices of one class count as one state.

Index letters as in `tables`; a walk begins at a root, the device of unit 0, to which the way back leads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shardnet.planner.tables import Floats, Ints, Tables

PIECE_SHARE = 0.9
"""Units at least this share of the median one count as pieces."""
LEAST_REACH = 0.06
"""Subgradient steps stop when they have been halved to this share without a gain."""


@dataclass(frozen=True)
class Target:
    """What a walk costs, and what it may not exceed.

    Attributes:
        unit_cost: [u, d]; hop_cost: [k, d, e]: s of lap, or J plus a little per s; inf for a hop that is not allowed.
        busy_limit_s: most busy seconds of one device or link in a lap.
        lap_limit_s: most seconds of a lap, where the cost is not the lap itself.
    """

    unit_cost: Floats
    hop_cost: Floats
    busy_limit_s: float = np.inf
    lap_limit_s: float = np.inf


@dataclass
class Prices:
    """Cost of what is over its limit: per byte [c], busy second [c], piece [q, c], and second of lap."""

    memory: Floats
    busy: Floats
    pieces: Floats
    lap: float = 0.0

    @classmethod
    def none(cls, num_classes: int) -> Prices:
        return cls(np.zeros(num_classes), np.zeros(num_classes), np.zeros((2, num_classes)))


@dataclass
class Usage:
    """What a walk uses: bytes [c], busy seconds [c], pieces [q, c], seconds of lap."""

    memory: Floats
    busy: Floats
    pieces: Floats
    lap: float = 0.0


class Relaxation:
    """The problem by classes, and its bound for any prices.

    Attributes:
        seconds, cost: [u, c]; hop_s, hop_cost: [k, c, c'], between two different devices.
        last_fit: [u, c] the last unit that fits with unit u in one visit; u - 1 where u alone does not.
        piece: [q, u] 1 for units about as large as the median one, 0 for small ones; q = 0 by time, 1 by memory.
        useful: [c] 1 for classes on some ring over allowed hops from a device that may hold unit 0, else 0.
        room, time: [c] bytes and busy seconds, and places: [q, c] pieces, that all devices of a class can hold.
    """

    def __init__(self, tables: Tables, target: Target) -> None:
        self.tables, self.target = tables, target
        first = np.array([devices[0] for devices in tables.members])
        self.first: Ints = first
        self.count: Floats = np.array([len(devices) for devices in tables.members], dtype=float)
        self.seconds, self.cost = tables.seconds[:, first], target.unit_cost[:, first]
        self.hop_s = self._hops_by_class(tables.hop_s)
        self.hop_cost = self._hops_by_class(target.hop_cost)
        self.capacity = np.array([attainable(tables.memory, limit) for limit in tables.capacity[first]])
        self.room: Floats = self.capacity * self.count
        self.time: Floats = np.full(len(first), target.busy_limit_s) * self.count
        self.last_fit = self._last_fit()
        self.useful = self._in_reach()
        pieces = self._pieces(self.seconds.mean(axis=1), PIECE_SHARE), self._pieces(tables.memory, PIECE_SHARE)
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

    def _pieces(self, size: Floats, share: float) -> tuple[Floats, Floats]:
        """Which units have at least `share` of the median size, and how many of them each class can hold."""
        tables = self.tables
        large = size >= share * np.median(size)
        times = np.cumsum(np.sort(self.seconds[large], axis=0), axis=0)
        sizes = np.cumsum(np.sort(tables.memory[large]))
        room, limit_s = self.capacity.copy(), np.full(len(self.first), self.target.busy_limit_s)
        source = tables.class_of[tables.source]
        for u in self._pinned():
            if not large[u]:
                room[source] -= tables.memory[u]
                limit_s[source] -= self.seconds[u, source]
        by_memory = np.searchsorted(sizes, room + 1e-9 * self.capacity, "right")
        by_time = (times <= limit_s + 1e-9 * self.target.busy_limit_s).sum(axis=0)
        return large.astype(float), np.minimum(by_memory, by_time) * self.count * self.useful

    def _pinned(self) -> set[int]:
        """The units that stay on the source."""
        problem = self.tables.problem
        pins = ((0, problem.pin_embedding), (problem.num_units - 1, problem.pin_head))
        return {u for u, pin in pins if pin}

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
            fits = np.searchsorted(bytes_before, bytes_before[:-1] + self.capacity[c] * (1 + 1e-9), "right") - 2
            if np.isfinite(self.target.busy_limit_s):
                busy_before = np.concatenate([[0.0], np.cumsum(self.seconds[:, c])])
                most = busy_before[:-1] + self.target.busy_limit_s * (1 + 1e-9)
                fits = np.minimum(fits, np.searchsorted(busy_before, most, "right") - 2)
            last[:, c] = fits
        if tables.problem.pin_embedding:
            elsewhere = np.arange(len(self.first)) != tables.class_of[tables.source]
            last[0, elsewhere] = -1
        return last

    def bound(self, prices: Prices, root: int | None) -> Bound:
        """The cheapest priced walk that begins on device `root`; None for any, and then the way back is bounded."""
        return Bound(self, prices, root)

    def improve(
        self, root: int | None, upper: float, num_rounds: int, deadline: float, start: Prices | None = None
    ) -> Bound:
        """The best bound found in some rounds of subgradient steps (Held and Karp, 1971; step after Polyak)."""
        prices = start or Prices.none(len(self.first))
        best = self.bound(prices, root)
        current, reach, waited = best, 1.0, 0
        for _ in range(num_rounds):
            usage = current.usage()
            excess = self._excess(usage, prices)
            length = float((excess**2).sum())
            finished = length < 1e-18 or best.value >= upper or not np.isfinite(current.value)
            if finished or time.perf_counter() > deadline:
                break
            step = reach * max(upper - current.value, 1e-3 * abs(upper)) / length
            prices = self._moved(prices, excess, step)
            current = self.bound(prices, root)
            if current.value > best.value:
                best, waited = current, 0
            else:
                waited += 1
                if waited == 5:
                    reach, waited = reach / 2, 0
                    if reach < LEAST_REACH:
                        break
                    prices, current = best.prices, best
        return best

    def _limits(self) -> Floats:
        """The limits in one row: bytes, busy seconds, pieces by class, seconds of lap; inf where there is none."""
        time = self.time if np.isfinite(self.target.busy_limit_s) else np.full(len(self.first), np.inf)
        limits = np.concatenate([self.room, time, self.places.ravel(), [self.target.lap_limit_s]])
        return np.maximum(limits, 1e-300)

    def _excess(self, usage: Usage, prices: Prices) -> Floats:
        """Use over limit, in shares of the limit, zero where neither a price nor an excess is."""
        used = np.concatenate([usage.memory, usage.busy, usage.pieces.ravel(), [usage.lap]])
        excess = np.minimum(used / self._limits() - 1, 1e3)
        priced = np.concatenate([prices.memory, prices.busy, prices.pieces.ravel(), [prices.lap]]) > 0
        return np.where((excess > 1e-9) | priced, excess, 0.0)

    def _moved(self, prices: Prices, excess: Floats, step: float) -> Prices:
        now = np.concatenate([prices.memory, prices.busy, prices.pieces.ravel(), [prices.lap]])
        moved = np.maximum(0.0, now + step * excess / self._limits())
        memory, busy, *pieces = np.split(moved[:-1], 4)
        return Prices(memory, busy, np.stack(pieces), float(moved[-1]))


@dataclass
class Bound:
    """A backward dynamic programme over (unit, class) for given prices.

    Attributes:
        before: [u + 1, c] priced cost of units 0..u-1 on the class.
        start: [u + 1, c] cheapest way to place units u.. when a visit to c begins at u; the last row is zero.
        leave: [u, c] cheapest way on after unit u was the last one on c; for the last unit, the way back.
        value: lower bound of the cost of every plan.
    """

    relaxation: Relaxation
    prices: Prices
    root: int | None
    before: Floats = field(init=False)
    start: Floats = field(init=False)
    leave: Floats = field(init=False)
    hop_cost: Floats = field(init=False)
    value: float = field(init=False)

    def __post_init__(self) -> None:
        own, tables = self.relaxation, self.relaxation.tables
        num_units, num_classes = own.cost.shape
        prices = self.prices
        priced = own.cost + tables.memory[:, None] * prices.memory + own.seconds * (prices.busy + prices.lap)
        if prices.pieces.any():
            priced = priced + own.piece.T @ prices.pieces
        self.before = np.concatenate([np.zeros((1, num_classes)), np.cumsum(priced, axis=0)])
        self.hop_cost = own.hop_cost + prices.lap * own.hop_s if prices.lap else own.hop_cost
        self.start = np.zeros((num_units + 1, num_classes))
        self.leave = np.empty((num_units, num_classes))
        self.leave[-1] = self._way_back()
        reach = self.before[1:] + self.leave[-1]
        ends = np.arange(num_units)[:, None]
        for u in range(num_units - 1, -1, -1):
            if u < num_units - 1:
                self.leave[u] = (self.hop_cost[tables.payload[u]] + self.start[u + 1]).min(axis=1)
                reach[u] = self.before[u + 1] + self.leave[u]
            self.start[u] = np.where(ends[u:] <= own.last_fit[u], reach[u:], np.inf).min(axis=0) - self.before[u]
        self.value = float(self._starts().min()) - self.charge()

    def charge(self) -> float:
        """What the prices give back: price times limit."""
        own, prices = self.relaxation, self.prices
        refund = float((prices.memory * own.room).sum() + (prices.pieces * own.places).sum())
        if prices.busy.any():
            refund += float((prices.busy * own.time).sum())
        return refund + (prices.lap * own.target.lap_limit_s if prices.lap else 0.0)

    def _starts(self) -> Floats:
        if self.root is None:
            return self.start[0]
        return self.start[0, self.relaxation.tables.class_of[self.root], None]

    def _way_back(self) -> Floats:
        own, tables = self.relaxation, self.relaxation.tables
        way = own.target.hop_cost[tables.payload[-1]]
        way = way + self.prices.lap * tables.hop(tables.num_units - 1) if self.prices.lap else way
        roots = range(tables.num_devices) if self.root is None else [self.root]
        back = way[:, list(roots)].min(axis=1)
        by_class = np.array([back[devices].min() for devices in tables.members])
        if tables.problem.pin_head:
            by_class[np.arange(len(by_class)) != tables.class_of[tables.source]] = np.inf
        return by_class

    def usage(self) -> Usage:
        """What the cheapest walk uses, found by following the choices forward."""
        own, tables = self.relaxation, self.relaxation.tables
        num_units, num_classes = own.cost.shape
        usage = Usage(np.zeros(num_classes), np.zeros(num_classes), np.zeros((2, num_classes)))
        starts = self.start[0]
        c = int(starts.argmin()) if self.root is None else int(tables.class_of[self.root])
        u = 0
        while u < num_units and np.isfinite(self.start[u, c]):
            last = int(own.last_fit[u, c])
            end = u + int((self.before[u + 1 : last + 2, c] + self.leave[u : last + 1, c]).argmin())
            seconds = float(own.seconds[u : end + 1, c].sum())
            usage.memory[c] += tables.memory[u : end + 1].sum()
            usage.busy[c] += seconds
            usage.pieces[:, c] += own.piece[:, u : end + 1].sum(axis=1)
            usage.lap += seconds
            u = end + 1
            if u < num_units:
                onward = self.hop_cost[tables.payload[end], c] + self.start[u]
                here, c = c, int(onward.argmin())
                usage.lap += float(own.hop_s[tables.payload[end], here, c])
            elif self.root is not None:
                usage.lap += float(tables.hop(end)[own.first[c], self.root])
        return usage


def attainable(sizes: Floats, limit: float) -> float:
    """The largest sum of some of the sizes within the limit; the limit itself where they are of too many kinds."""
    kinds, counts = np.unique(sizes[sizes > 0], return_counts=True)
    if len(kinds) == 0 or len(kinds) > 3 or sizes.sum() <= limit:
        return limit
    sums = np.zeros(1)
    for size, count in zip(kinds[:-1], counts[:-1]):
        sums = (sums[:, None] + size * np.arange(count + 1)[None]).ravel()
        sums = sums[sums <= limit * (1 + 1e-9)]
    largest = np.minimum(counts[-1], np.floor((limit * (1 + 1e-9) - sums) / kinds[-1]))
    return float(min(limit, (sums + largest * kinds[-1]).max()))
