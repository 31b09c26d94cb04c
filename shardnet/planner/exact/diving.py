"""Search unit by unit, many partial plans at once, that follows what the bounds of `counted` leave. Pure.

Label setting for a shortest path with many limits (Desrochers and Soumis, 1988) with bounds of what is left (after
Boland, Dethridge and Dumitrescu, 2006): a partial plan is dropped where its cost and the least cost of the rest, by any
of some tables, reach the best plan known. Where too many are left, they are split into groups of similar ones, and each
group gets tables with prices of its own, one group after the other. Of identical devices that are all unused, the
first is taken.

Index letters as in `partial`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from shardnet.planner.budget import Budget
from shardnet.planner.costs import ROUNDING
from shardnet.planner.exact.assignment import Assignment, Judge, Runs
from shardnet.planner.exact.branching import PROOF
from shardnet.planner.exact.counted import Counted, Pair, Table
from shardnet.planner.exact.partial import Partial
from shardnet.planner.exact.search import Found
from shardnet.planner.tables import Floats, Ints

MOST_AT_ONCE, GROUP = 1_000_000, 16384
"""Partial plans of one length, times devices: where there are more, they are split into groups of so many plans."""
MOST_COUNTED, MOST_PAIRS, MOST_LATER = 5, 8, 3
"""Of the loads with the highest prices so many are counted in pairs; so many pairs are kept, and for later groups."""
GRAIN, MOST_SUMS = 100, 15_000_000
"""Into how many parts a counted limit is divided at most, and how many sums a table may take."""
FIRST_STEPS, ROOT_STEPS, STEPS = 100, 60, 32
"""Steps of the prices where nothing is counted, for the first table of a pair, and for that of a later group."""
FIRST_LENGTH, LENGTH = 0.2, 0.1
"""The first step where nothing is counted, and of a pair, over the best plan's cost for each device."""
SAMPLE = 48
"""Prices are made for so many of a group."""
MOST_JUDGED = 64


@dataclass(frozen=True)
class _Group:
    """Similar partial plans, and the prices by pair with which their kind was searched; () where nothing is counted."""

    some: Partial
    prices: dict[Pair, Floats]


@dataclass(frozen=True)
class _Reach:
    """What the rest costs at least with one pair of loads counted."""

    counted: Counted
    table: Table
    pair: Pair


class Diving:
    """A search that can be gone on with."""

    def __init__(self, assignment: Assignment, judge: Judge) -> None:
        self._given, self._judge = assignment, judge
        tables = assignment.tables
        self._num_units, self._num_devices = tables.num_units, tables.num_devices
        self._loads: Floats = np.concatenate(assignment.loads, axis=1)
        self._of_device: Ints = np.tile(np.arange(self._num_devices), len(assignment.loads))
        self._bits: Ints = np.arange(self._num_devices)
        sums = self._num_units * self._num_devices**2
        self._grain = max(1, min(GRAIN, int((MOST_SUMS / sums) ** 0.5)))
        earlier = np.full(self._num_devices, -1)
        for devices in tables.members:
            earlier[devices[1:]] = devices[:-1]
        self._earlier: Ints = earlier
        self._groups: list[_Group] | None = None
        """Those that are still to be searched, the next one last."""
        self._tables: list[_Reach] = []
        self._now: Partial | None = None
        self._chance = np.random.default_rng(3)
        self._runs: Runs | None = None
        self._upper = np.inf
        self._end = Budget(0.0)

    def run(self, upper: float, budget: Budget, enough: bool = False, end: Budget | None = None) -> Found:
        """Search for a plan that costs less than `upper`, until there is proven to be none, or the budget is spent.

        Args:
            enough: any such plan will do.
            end: tables that were begun are finished in this time, where it is more than the budget.
        """
        self._upper, self._runs, self._end = upper, None, end or budget
        if self._groups is None:
            self._groups = self._roots()
        while True:
            if self._now is not None:
                self._go_on(self._now)
            elif self._groups:
                self._begin(self._groups.pop())
            else:
                return Found(self._runs, self._upper, np.inf)
            if budget.spent or (enough and self._runs is not None):
                break
        waiting = [group.some for group in self._groups] + ([] if self._now is None else [self._now])
        least = min((float(some.bound.min()) for some in waiting), default=np.inf)
        return Found(self._runs, self._upper, least)

    def _goal(self) -> float:
        return min(self._upper, self._given.far)

    def _closed_at(self) -> float:
        return self._goal() * (1 - PROOF)

    def _rounding(self, prices: Floats) -> float:
        """By how much sums of narrow numbers may be too high."""
        return 2 * self._num_units * float(np.finfo(np.float32).eps) * (self._goal() + float(prices.sum()))

    def _roots(self) -> list[_Group]:
        """Unit 0 on each device that may hold it, the least bound last."""
        given, prices, roots = self._given, np.zeros(self._loads.shape[1] + 1), []
        length = FIRST_LENGTH * self._goal() / self._num_devices
        for root in (d for d in given.roots if given.allowed[0, d]):
            used = np.append(self._loads[0] * (self._of_device == root), given.second[0, root])
            owners, bit = np.array([[root]], np.uint8), np.array([1 << root])
            first = Partial(owners, given.unit[0, root][None], used[None], np.full(1, -np.inf), bit)
            plain = Counted(given, first, (), 1)
            prices = plain.ascend(first, prices, length, FIRST_STEPS, self._closed_at(), self._end)
            bound = plain.rests(plain.table(prices), first)[0] - self._rounding(prices)
            roots.append(_Group(Partial(owners, first.cost, first.used, bound, bit), {(): prices}))
        return sorted(roots, key=lambda group: -group.some.bound[0])

    def _begin(self, group: _Group) -> None:
        """Make tables for a group, which waits on if there is no time for them."""
        assert self._groups is not None
        some = self._open(group.some)
        if not len(some):
            return
        sample = some.take(self._chance.permutation(len(some))[:SAMPLE])
        length, steps, prices = LENGTH * self._goal() / self._num_devices, STEPS, group.prices
        if () in prices:
            steps, prices = ROOT_STEPS, self._pairs(prices[()])
        found = []
        for pair, start in prices.items():
            counted = Counted(self._given, some, pair, self._grain)
            table = counted.table(counted.ascend(sample, start, length, steps, self._closed_at(), self._end))
            bounds, _ = counted.rests(table, sample)
            found.append((float(np.minimum(bounds, self._closed_at()).mean()), _Reach(counted, table, pair)))
            if self._end.spent:
                self._groups.append(group)
                return
        found.sort(key=lambda row: -row[0])
        self._tables, self._now = [reach for _, reach in found[:MOST_PAIRS]], some

    def _pairs(self, prices: Floats) -> dict[Pair, Floats]:
        """Every two loads that are dear, to begin with these prices; none where fewer than two have a price."""
        dear = [load for load in np.argsort(-prices[:-1])[:MOST_COUNTED].tolist() if prices[load] > 0]
        pairs: dict[Pair, Floats] = dict.fromkeys(combinations(dear, 2), prices)
        return pairs or {(): prices}

    def _open(self, some: Partial) -> Partial:
        return some.take(np.flatnonzero(some.bound < self._closed_at()))

    def _go_on(self, some: Partial) -> None:
        """Place one more unit, or judge what is complete; what is too much becomes groups."""
        assert self._groups is not None
        if some.num_placed == self._num_units:
            self._consider(some)
            return
        some = self._open(some)
        grown = self._grown(some) if len(some) else some
        self._now = grown if len(grown) else None
        if len(grown) * self._num_devices > MOST_AT_ONCE and grown.num_placed < self._num_units:
            prices = {each.pair: each.table.prices for each in self._tables[:MOST_LATER]}
            groups = grown.groups(GROUP, np.sum([*prices.values()], axis=0))
            groups.sort(key=lambda group: -float(group.bound.min()))
            self._groups += [_Group(group, prices) for group in groups]
            self._now = None

    def _grown(self, some: Partial) -> Partial:
        """All that may be with one more unit."""
        given, unit, device = self._given, some.num_placed, some.device
        named = ((some.named[:, None] >> self._bits) & 1).astype(bool)
        allowed = (named | (self._earlier < 0) | named[:, self._earlier]) & given.allowed[unit]
        room = 1 + ROUNDING - some.used[:, :-1].reshape(len(some), -1, self._num_devices)
        allowed &= (given.loads[:, unit] <= room).all(axis=1)
        row, there = np.nonzero(allowed)
        cost = some.cost[row] + given.hop[unit - 1, device[row], there]
        second = given.second_hop[unit - 1, device[row], there]
        bound = some.bound[row]
        for each in self._tables:
            prices = each.table.prices
            priced = some.used @ prices - (prices.sum() + self._rounding(prices))
            value = cost + priced[row] + each.counted.cells(each.table, some, row, there)
            if given.has_second:
                value += prices[-1] * second
            bound = np.maximum(bound, value)
            kept = np.flatnonzero(bound < self._closed_at())
            row, there, cost, second, bound = row[kept], there[kept], cost[kept], second[kept], bound[kept]
        return self._appended(some, row, there, cost, second, bound)

    def _appended(self, some: Partial, row: Ints, there: Ints, cost: Floats, second: Floats, bound: Floats) -> Partial:
        given, unit, each, used = self._given, some.num_placed, np.arange(len(row)), some.used[row]
        for load in range(0, self._loads.shape[1], self._num_devices):
            used[each, there + load] += self._loads[unit, there + load]
        used[:, -1] += second + given.second[unit, there]
        owners = np.concatenate([some.owners[row], there[:, None].astype(np.uint8)], axis=1)
        cost = cost + given.unit[unit, there]
        if unit + 1 == self._num_units:
            cost = cost + given.hop[-1, there, owners[:, 0]]
            bound = np.maximum(bound, cost)
        return Partial(owners, cost, used, bound, some.named[row] | (1 << there))

    def _consider(self, some: Partial) -> None:
        """Judge some complete plans, the cheapest first."""
        some = self._open(some)
        order = np.argsort(some.cost, kind="stable")
        for n in order[:MOST_JUDGED].tolist():
            runs = self._given.runs(some.owners[n].astype(np.int64))
            cost = self._judge(runs)
            if cost < self._upper:
                self._upper, self._runs = cost, runs
        self._now = some.take(order[MOST_JUDGED:]) if len(some) > MOST_JUDGED else None
