"""Lower bounds: the cheapest walk through the units when memory is counted per visit and priced in all. Pure.

A walk visits devices in turn and places consecutive units at each visit. Each visit alone must fit its device, but a
walk may come back to a full one. What it then uses too much is charged at a price per class of identical devices
(Lagrange), and the prices that give the best bound are found by subgradients. Devices of one class count as one state.

Index letters as in `tables`; a walk begins at a root, the device of unit 0, to which the way back leads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from shardnet.planner.budget import Budget
from shardnet.planner.exact.by_class import ByClass
from shardnet.planner.tables import Floats

LEAST_REACH = 0.02
"""Subgradient steps stop when they have been halved to this share without a gain."""
PATIENCE = 5, 20
"""Steps without a gain before the next ones are half as long: as many as classes, but no fewer and no more."""
DEFLECTION = 0.9
"""How much of the last step's direction the next one keeps: the subgradients of many classes zigzag."""


@dataclass
class Prices:
    """Cost of what is over its limit: per byte [c], busy second [c], piece [q, c], and of the second amount."""

    memory: Floats
    busy: Floats
    pieces: Floats
    second: float = 0.0

    @classmethod
    def none(cls, num_classes: int) -> Prices:
        return cls(np.zeros(num_classes), np.zeros(num_classes), np.zeros((2, num_classes)))


@dataclass
class Usage:
    """What a walk uses: bytes [c], busy seconds [c], pieces [q, c], and of the second amount."""

    memory: Floats
    busy: Floats
    pieces: Floats
    second: float = 0.0


class Relaxation(ByClass):
    """The problem by classes, and its bound for any prices."""

    def bound(self, prices: Prices, root: int | None) -> Bound:
        """The cheapest priced walk that begins on device `root`; None for any, and then the way back is bounded."""
        return Bound(self, prices, root)

    def improve(
        self, root: int | None, upper: float, num_rounds: int, budget: Budget, start: Prices | None = None
    ) -> Bound:
        """The best bound found in some rounds of subgradient steps.

        Held and Karp (1971); length of a step after Polyak, direction deflected after Camerini, Fratta and Maffioli
        (1975).
        """
        prices = start or Prices.none(len(self.first))
        best, patience = self.bound(prices, root), int(np.clip(len(self.first), *PATIENCE))
        current, reach, waited, direction = best, 1.0, 0, np.zeros(1)
        for _ in range(num_rounds):
            direction = self._excess(current.usage(), prices) + DEFLECTION * direction
            length = float((direction**2).sum())
            finished = length < 1e-18 or best.value >= upper or not np.isfinite(current.value)
            if finished or budget.spent:
                break
            step = reach * max(upper - current.value, 1e-3 * abs(upper)) / length
            prices = self._moved(prices, direction, step)
            current = self.bound(prices, root)
            if current.value > best.value:
                best, waited = current, 0
            else:
                waited += 1
                if waited == patience:
                    reach, waited, direction = reach / 2, 0, np.zeros(1)
                    if reach < LEAST_REACH:
                        break
                    prices, current = best.prices, best
        return best

    def _limits(self) -> Floats:
        """The limits in one row: bytes, busy seconds, pieces by class, the second amount; inf where there is none."""
        time = self.time if np.isfinite(self.target.busy_limit_s) else np.full(len(self.first), np.inf)
        second = np.inf if self.target.second is None else self.target.second.most
        limits = np.concatenate([self.room, time, self.places.ravel(), [second]])
        return np.maximum(limits, 1e-300)

    def _excess(self, usage: Usage, prices: Prices) -> Floats:
        """Use over limit, in shares of the limit, zero where neither a price nor an excess is."""
        used = np.concatenate([usage.memory, usage.busy, usage.pieces.ravel(), [usage.second]])
        excess = np.minimum(used / self._limits() - 1, 1e3)
        priced = np.concatenate([prices.memory, prices.busy, prices.pieces.ravel(), [prices.second]]) > 0
        return np.where((excess > 1e-9) | priced, excess, 0.0)

    def _moved(self, prices: Prices, excess: Floats, step: float) -> Prices:
        now = np.concatenate([prices.memory, prices.busy, prices.pieces.ravel(), [prices.second]])
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
        priced = own.cost + tables.memory[:, None] * prices.memory + own.seconds * prices.busy
        if prices.pieces.any():
            priced = priced + (own.piece * prices.pieces[:, None]).sum(axis=0)
        if prices.second:
            priced = priced + prices.second * own.second
        self.before = np.concatenate([np.zeros((1, num_classes)), np.cumsum(priced, axis=0)])
        self.hop_cost = own.hop_cost
        if prices.second:
            self.hop_cost = own.hop_cost + prices.second * own.second_hop
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
        second = own.target.second
        return refund if second is None else refund + prices.second * second.most

    def _starts(self) -> Floats:
        if self.root is None:
            return self.start[0]
        return self.start[0, self.relaxation.tables.class_of[self.root], None]

    def _way_back(self) -> Floats:
        own, tables = self.relaxation, self.relaxation.tables
        way, second = own.target.hop_cost[tables.payload[-1]], own.target.second
        if second is not None and self.prices.second:
            way = way + self.prices.second * second.hop[tables.payload[-1]]
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
        second = own.target.second
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
            usage.pieces[:, c] += own.piece[:, u : end + 1, c].sum(axis=1)
            usage.second += float(own.second[u : end + 1, c].sum()) if second else 0.0
            u = end + 1
            if u < num_units:
                onward = self.hop_cost[tables.payload[end], c] + self.start[u]
                here, c = c, int(onward.argmin())
                usage.second += float(own.second_hop[tables.payload[end], here, c]) if second else 0.0
            elif self.root is not None and second is not None:
                usage.second += float(second.hop[tables.payload[end], own.first[c], self.root])
        return usage
