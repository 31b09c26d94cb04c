"""Search over partial plans, a unit at a time, that drops only what a lower bound or a cheaper twin excludes. Pure.

Label setting with bounds: a partial plan is followed as long as its cost and the least cost of finishing it (see
`relaxed`) stay under the best plan known. With a width, only that many partial plans are kept at each unit, and the
least bound among the others is what the search can still prove. Devices may be visited again. Of identical devices
that are all unused, the first is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from shardnet.planner.budget import Budget
from shardnet.planner.exact.by_class import Target
from shardnet.planner.exact.labels import SLACK, Dominance, Layer, joined
from shardnet.planner.exact.limits import Columns
from shardnet.planner.exact.relaxed import Bound
from shardnet.planner.tables import Floats, Ints, Tables

MOST_CELLS = 1_500_000
TRIES = 50
"""Complete plans of one layer that are judged before the rest count as dropped."""


@dataclass
class Found:
    """What a search found: the best plan under `upper`, if any, and a bound for every plan that it did not see."""

    runs: tuple[tuple[int, int], ...] | None
    cost: float
    unseen: float
    """No plan that was dropped for lack of width or time costs less than this."""


@dataclass
class Candidates:
    """Stages that may be appended to partial plans: rows of parents, devices, bounds."""

    parent_unit: Ints
    parent_row: Ints
    device: Ints
    least: Floats
    costs: Floats

    def take(self, rows: Ints) -> Candidates:
        return Candidates(
            self.parent_unit[rows], self.parent_row[rows], self.device[rows], self.least[rows], self.costs[:, rows]
        )


@dataclass
class Search:
    """One way to search: the problem, what is sought, the bounds, the price of one more device.

    Attributes:
        roots: devices that may hold unit 0.
        bounds: [b][root]; the first without prices.
        judge: cost of a complete plan given as (device, last unit) runs, inf where it breaks a limit.
        device_cost: what each device adds to the cost, to break ties.
        enough: stop at the first complete plan.
    """

    tables: Tables
    target: Target
    columns: Columns
    roots: list[int]
    bounds: list[list[Bound]]
    judge: Callable[[tuple[tuple[int, int], ...]], float]
    device_cost: float = 0.0
    enough: bool = False
    _layers: dict[int, Layer] = field(default_factory=dict, init=False)
    _pending: dict[int, list[Candidates]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        tables = self.tables
        self._dominance = Dominance(tables, self.target, self.columns, self.roots, self.device_cost > 0)
        self._bytes_before = np.concatenate([[0.0], np.cumsum(tables.memory)])
        self._seconds_before = np.concatenate([np.zeros((1, tables.num_devices)), np.cumsum(tables.seconds, axis=0)])
        self._timed = bool(np.isfinite(self.target.busy_limit_s))
        self._start = [np.stack([bound.start[:, tables.class_of] for bound in row]) for row in self.bounds]
        self._leave = [np.stack([bound.leave[:, tables.class_of] for bound in row]) for row in self.bounds]
        self._charge = [row[0].charge() for row in self.bounds]
        earlier = np.full(tables.num_devices, -1)
        for devices in tables.members:
            earlier[devices[1:]] = devices[:-1]
        self._earlier: Ints = earlier

    def run(self, upper: float, width: int, budget: Budget) -> Found:
        """Search for a complete plan that costs less than `upper`.

        Args:
            width: partial plans kept at each unit.
            budget: where it is spent, what is left counts as dropped.
        """
        self._layers, self._pending = {}, {}
        self._best: tuple[tuple[int, int], ...] | None = None
        self._upper, self._unseen, self._width = upper, np.inf, width
        self._begin()
        for unit in range(self.tables.num_units - 1):
            parts = self._pending.pop(unit, [])
            if not parts:
                continue
            if budget.spent or (self.enough and self._best is not None):
                self._unseen = min(self._unseen, *(float(part.least.min(initial=np.inf)) for part in parts))
                continue
            layer = self._layer(unit, parts)
            if len(layer):
                self._layers[unit] = layer
                self._expand(unit, layer, budget)
        return Found(self._best, self._upper, self._unseen)

    def _begin(self) -> None:
        """Let each root take the first units."""
        num = len(self.roots)
        none = np.zeros((num, 0))
        self._layers[-1] = Layer(
            device=np.array(self.roots),
            root=np.arange(num),
            costs=np.zeros((len(self.bounds), num)),
            memory=np.zeros((num, self.tables.num_devices)),
            busy=np.zeros((num, self.tables.num_devices)) if self._timed else none,
            columns=np.zeros((num, len(self.columns.most))),
            used=np.zeros((num, self.tables.num_devices), dtype=bool),
            parent_unit=np.full(num, -2),
            parent_row=np.full(num, -1),
        )
        rows = np.arange(num)
        self._append(
            -1, self._layers[-1], rows, np.array(self.roots), np.full((len(self.bounds), num), self.device_cost)
        )

    def _expand(self, unit: int, layer: Layer, budget: Budget) -> None:
        """Let every partial plan hop to every device that its bound allows."""
        target, tables = self.target, self.tables
        k = tables.payload[unit]
        hop = target.hop_cost[k][layer.device]
        new = ~layer.used
        allowed = layer.device[:, None] != np.arange(tables.num_devices)
        allowed &= layer.used | (self._earlier < 0) | layer.used[:, self._earlier]
        allowed &= tables.capacity * (1 + SLACK) - layer.memory >= tables.memory[unit + 1]
        steps, floor = [], np.full(allowed.shape, -np.inf)
        for b, row in enumerate(self.bounds):
            price = row[0].prices.second
            step = hop + self.device_cost * new
            if price and target.second is not None:
                step = step + price * target.second.hop[k][layer.device]
            least = layer.costs[b][:, None] + step + self._start[b][layer.root, unit + 1] - self._charge[b]
            floor = np.maximum(floor, least)
            steps.append(step)
        allowed &= floor < self._upper
        rows, devices = np.nonzero(allowed)
        chunk = max(1, MOST_CELLS // (tables.num_units - unit))
        for i in range(0, len(rows), chunk):
            if budget.spent:
                self._unseen = min(self._unseen, float(floor[rows[i:], devices[i:]].min()))
                return
            part = slice(i, i + chunk)
            costs = np.stack([step[rows[part], devices[part]] for step in steps])
            self._append(unit, layer, rows[part], devices[part], costs)

    def _append(self, unit: int, layer: Layer, rows: Ints, devices: Ints, steps: Floats) -> None:
        """Give the units after `unit` to the devices, as many as fit, and keep what the bounds allow."""
        if not len(rows):
            return
        first, tables = unit + 1, self.tables
        free = tables.capacity[devices] * (1 + SLACK) - layer.memory[rows, devices]
        fits = self._bytes_before[first + 1 :] - self._bytes_before[first] <= free[:, None]
        if self._timed:
            left = self.target.busy_limit_s * (1 + SLACK) - layer.busy[rows, devices]
            spent = (self._seconds_before[first + 1 :] - self._seconds_before[first])[:, devices].T
            fits &= spent <= left[:, None]
        least = np.full(fits.shape, -np.inf)
        costs = []
        for b, row in enumerate(self.bounds):
            classes = tables.class_of[devices]
            before = row[0].before
            cost = (before[first + 1 :] - before[first])[:, classes].T + (layer.costs[b][rows] + steps[b])[:, None]
            leave = self._leave[b][layer.root[rows], first:, devices]
            least = np.maximum(least, cost + leave - self._charge[b])
            costs.append(cost)
        fits &= least < self._upper
        self._complete(unit, layer, rows, devices, costs[0][:, -1], fits[:, -1])
        for end in range(fits.shape[1] - 1):
            kept = np.flatnonzero(fits[:, end])
            if len(kept):
                priced = np.stack([cost[kept, end] for cost in costs])
                parents = np.full(len(kept), unit), rows[kept]
                self._wait(first + end, Candidates(*parents, devices[kept], least[kept, end], priced))

    def _wait(self, unit: int, candidates: Candidates) -> None:
        waiting = self._pending.setdefault(unit, [])
        waiting.append(candidates)
        if sum(len(part.least) for part in waiting) > 16 * self._width + 4096:
            self._pending[unit] = [self._cheapest(waiting, 8 * self._width)]

    def _cheapest(self, parts: list[Candidates], num: int) -> Candidates:
        """The candidates with the least bounds; the least bound of the others is remembered."""
        names = ("parent_unit", "parent_row", "device", "least")
        merged = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        every = Candidates(costs=np.concatenate([part.costs for part in parts], axis=1), **merged)
        every = every.take(np.flatnonzero(every.least < self._upper))
        if len(every.least) <= num:
            return every
        order = np.argpartition(every.least, num)
        self._unseen = min(self._unseen, float(every.least[order[num:]].min()))
        return every.take(order[:num])

    def _layer(self, unit: int, parts: list[Candidates]) -> Layer:
        """Build the partial plans that end at `unit`, without twins, at most `width` of them."""
        candidates = self._cheapest(parts, 4 * self._width)
        if not len(candidates.least):
            return self._layers[-1].take(np.zeros(0, dtype=np.int64))
        layers, least = [], []
        for parent in np.unique(candidates.parent_unit):
            mine = candidates.take(np.flatnonzero(candidates.parent_unit == parent))
            layers.append(self._grown(int(parent), unit, mine.parent_row, mine.device, mine.costs))
            least.append(mine.least)
        layer, bound = joined(layers), np.concatenate(least)
        bound = np.maximum(bound, self._finish_bound(unit, layer))
        keep = np.flatnonzero((layer.columns <= self.columns.most * (1 + SLACK)).all(axis=1) & (bound < self._upper))
        layer, bound = layer.take(keep), bound[keep]
        if len(layer):
            keep = self._dominance.keep(unit, layer, self.device_cost / 4)
            layer, bound = layer.take(keep), bound[keep]
        if len(layer) > self._width:
            order = np.argpartition(bound, self._width)
            self._unseen = min(self._unseen, float(bound[order[self._width :]].min()))
            layer = layer.take(order[: self._width])
        return layer

    def _grown(self, parent: int, unit: int, rows: Ints, devices: Ints, costs: Floats) -> Layer:
        """The partial plans of layer `parent` with one more stage, that ends at `unit`."""
        layer, tables, first = self._layers[parent], self.tables, parent + 1
        each = np.arange(len(rows))
        memory, used, busy = layer.memory[rows], layer.used[rows], layer.busy[rows]
        memory[each, devices] += self._bytes_before[unit + 1] - self._bytes_before[first]
        used[each, devices] = True
        if self._timed:
            busy[each, devices] += (self._seconds_before[unit + 1] - self._seconds_before[first])[devices]
        columns = layer.columns[rows]
        if columns.size:
            columns += (self.columns.before[unit + 1] - self.columns.before[first])[devices]
            if parent >= 0:
                columns += self.columns.hop[tables.payload[parent], layer.device[rows], devices]
        parents = np.full(len(rows), parent), rows
        return Layer(devices, layer.root[rows], costs, memory, busy, columns, used, *parents)

    def _finish_bound(self, unit: int, layer: Layer) -> Floats:
        """Least cost of each finished plan; a price gives back only for room that what remains could use."""
        tables, best = self.tables, np.full(len(layer), -np.inf)
        memory_after = self._bytes_before[-1] - self._bytes_before[unit + 1]
        room = np.minimum(np.maximum(tables.capacity - layer.memory, 0), memory_after)
        for b, row in enumerate(self.bounds[1:], 1):
            prices = row[0].prices
            refund = (layer.memory + room) @ prices.memory[tables.class_of]
            if self._timed:
                seconds_after = self._seconds_before[-1] - self._seconds_before[unit + 1]
                left = np.minimum(np.maximum(self.target.busy_limit_s - layer.busy, 0), seconds_after)
                refund += (layer.busy + left) @ prices.busy[tables.class_of]
            refund += float((prices.pieces * row[0].relaxation.places).sum())
            if prices.second and self.target.second is not None:
                refund += prices.second * self.target.second.most
            leave = self._leave[b][layer.root, unit, layer.device]
            best = np.maximum(best, layer.costs[b] + leave - np.minimum(refund, self._charge_cap(b)))
        return best

    def _charge_cap(self, b: int) -> float:
        """The charge over all devices, the most that the prices may give back."""
        return self._charge[b] + SLACK * abs(self._charge[b])

    def _complete(self, unit: int, layer: Layer, rows: Ints, devices: Ints, costs: Floats, fits: Floats) -> None:
        """Judge the plans that are complete, cheapest first, until one holds."""
        problem, tables = self.tables.problem, self.tables
        roots = np.array(self.roots)[layer.root[rows]]
        total = costs + self.target.hop_cost[tables.payload[-1]][devices, roots]
        ready = fits & (total < self._upper)
        if problem.pin_head:
            ready &= devices == tables.source
        order = np.flatnonzero(ready)[np.argsort(total[ready], kind="stable")]
        if len(order) and len(self.columns.most):
            whole = self._grown(unit, tables.num_units - 1, rows[order], devices[order], np.zeros((1, len(order))))
            way_back = self.columns.hop[tables.payload[-1], devices[order], roots[order]]
            order = order[(whole.columns + way_back <= self.columns.most * (1 + SLACK)).all(axis=1)]
        for i in order[:TRIES]:
            runs = (*self._runs(unit, int(rows[i])), (int(devices[i]), tables.num_units - 1))
            cost = self.judge(runs)
            if cost < self._upper:
                self._upper, self._best = cost, runs
                return
            self._unseen = min(self._unseen, float(total[i]))
        if len(order) > TRIES:
            self._unseen = min(self._unseen, float(total[order[TRIES]]))

    def _runs(self, unit: int, row: int) -> tuple[tuple[int, int], ...]:
        """The stages of a partial plan as (device, last unit)."""
        runs: list[tuple[int, int]] = []
        while unit >= 0:
            layer = self._layers[unit]
            runs.append((int(layer.device[row]), unit))
            unit, row = int(layer.parent_unit[row]), int(layer.parent_row[row])
        return tuple(reversed(runs))
