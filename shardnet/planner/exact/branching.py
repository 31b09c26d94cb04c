"""Branch and bound over which device has each unit, many nodes at once: for memory so tight that plans revisit. Pure.

A node says where each unit still may be. Its bound is the shortest path through the units with prices on loads
(Lagrange; as good as the linear programme of the network with a knapsack per device), the prices found by a few
subgradient steps from those of its parent. A path that keeps every limit is a plan. By the cheapest path through each
(unit, device) those are ruled out that no better plan uses; what does not fit beside what is fixed is ruled out, too.
Branched is over the devices of a unit that the paths of the last steps put here and there, a large one first. Of
identical devices that no branch has named, only the first is taken. Nodes of the least bound come first.

Index letters as in `assignment`; n numbers nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardnet.planner.budget import Budget
from shardnet.planner.costs import ROUNDING
from shardnet.planner.exact.assignment import Assignment, Judge, Runs
from shardnet.planner.exact.fillings import fill
from shardnet.planner.exact.open_nodes import Nodes, OpenNodes
from shardnet.planner.exact.paths import Paths
from shardnet.planner.exact.search import Found
from shardnet.planner.tables import Floats, Ints

Bools = NDArray[np.bool_]

PROOF = 1e-9
"""Relative difference below which a bound counts as that of the best plan known."""
BATCH = 512
FIRST_STEPS, STEPS = 200, 6
"""Subgradient steps of the roots, and of every other node."""
PATIENCE = 4
DEFLECTION = 0.6
FADING = 0.8
"""How much an earlier path counts beside the next one, when it is asked where a unit goes."""
SURE = 0.05
"""Weight of a unit's size where all paths agree on its device."""


@dataclass
class _Ascent:
    """What subgradient steps found: bounds [n], prices [p, n], and how often each unit was on each device [u, d, n]."""

    value: Floats
    prices: Floats
    share: Floats


class Branching:
    """A search that can be gone on with.

    Args:
        within: [u, d, i] in one of these the device of every unit must be allowed; anywhere where None.
        closing: nodes whose bound comes to this share of the best plan known are closed.
    """

    def __init__(
        self, assignment: Assignment, judge: Judge, within: Bools | None = None, closing: float = 1 - PROOF
    ) -> None:
        self._within, self._closing = within, closing
        self._given, self._judge = assignment, judge
        tables = assignment.tables
        self._num_units, self._num_devices = tables.num_units, tables.num_devices
        self._bits: Ints = np.arange(self._num_devices)
        self._units: Ints = np.arange(self._num_units)
        self._after: Ints = np.append(self._units[1:], 0)
        allowed = assignment.allowed
        self._size = ((assignment.loads * allowed).sum(axis=2) / np.maximum(allowed.sum(axis=1), 1)).max(axis=0)
        self._weighs = bool(tables.memory.any())
        of_all = tables.memory.sum() or 1.0
        self._need, self._share_of_all = tables.memory / of_all, tables.capacity / of_all
        earlier = np.full(self._num_devices, -1)
        for devices in tables.members:
            earlier[devices[1:]] = devices[:-1]
        self._earlier: Ints = earlier
        self._num_prices = assignment.loads.shape[0] * self._num_devices + 1
        self._roughly, self._exactly = Paths(assignment, np.float32), Paths(assignment, np.float64)
        self._open: OpenNodes | None = None
        self._runs: Runs | None = None
        self._upper = np.inf
        self._budget = Budget(0.0)

    def run(self, upper: float, budget: Budget, enough: bool = False) -> Found:
        """Search for a plan that costs less than `upper`, until there is proven to be none, or the budget is spent.

        Args:
            enough: any such plan will do.
        """
        self._upper, self._runs, self._budget = upper, None, budget
        if self._open is None:
            self._open = OpenNodes()
            self._open.add(self._expanded(self._roots(), FIRST_STEPS))
        while not budget.spent:
            nodes = self._open.take(BATCH, self._closed_at())
            if nodes is None:
                return Found(self._runs, self._upper, np.inf)
            if enough and self._runs is not None:
                break
            self._open.add(self._expanded(nodes, STEPS))
        return Found(self._runs, self._upper, self._open.least())

    def _closed_at(self) -> float:
        return min(self._upper, self._given.far) * self._closing

    def _roots(self) -> Nodes:
        """A node for each device that may hold unit 0."""
        if self._within is not None:
            return self._parts(self._within)
        roots = [d for d in self._given.roots if self._given.allowed[0, d]]
        masks = np.repeat((self._given.allowed << self._bits).sum(axis=1)[None], len(roots), axis=0)
        root = np.array(roots, dtype=np.int64)
        masks[:, 0] = 1 << root
        prices = np.zeros((len(roots), self._num_prices))
        return Nodes(masks.astype(np.uint16), prices, np.full(len(roots), -np.inf), root, 1 << root)

    def _parts(self, within: Bools) -> Nodes:
        """A node for each part and each device of unit 0 in it; identical devices are told apart there."""
        part, root = np.nonzero(within[0].T & self._given.allowed[0])
        masks = ((within & self._given.allowed[:, :, None]) << self._bits[None, :, None]).sum(axis=1).T[part]
        masks[:, 0] = 1 << root
        every = np.full(len(root), (1 << self._num_devices) - 1)
        prices = np.zeros((len(root), self._num_prices))
        return Nodes(masks.astype(np.uint16), prices, np.full(len(root), -np.inf), root, every)

    def _expanded(self, nodes: Nodes, num_steps: int) -> Nodes:
        """The children of some nodes that may hold a better plan."""
        allowed = ((nodes.masks.T[:, None] >> self._bits[None, :, None]) & 1).astype(bool)
        allowed, alive = self._propagated(allowed)
        nodes, allowed = nodes.take(alive), allowed[:, :, alive]
        if not len(nodes):
            return nodes
        limits = np.ones((self._num_prices, len(nodes)))
        if self._weighs:
            filled = fill(self._given.loads[0], self._share_of_all, allowed)
            limits[: self._num_devices] = filled.most
            alive = np.flatnonzero(filled.alive)
            nodes, allowed, limits = nodes.take(alive), filled.allowed[:, :, alive], limits[:, alive]
            if not len(nodes):
                return nodes
        ascent = self._ascended(allowed, nodes, num_steps, limits)
        through = self._exactly.through(allowed, nodes.root, ascent.prices) - (ascent.prices * limits).sum(axis=0)
        bound = np.maximum(nodes.bound, through[0].min(axis=0))
        allowed &= through < self._closed_at()
        alive = np.flatnonzero((bound < self._closed_at()) & allowed.any(axis=1).all(axis=0))
        nodes = Nodes(nodes.masks, ascent.prices.T, bound, nodes.root, nodes.used).take(alive)
        return self._children(nodes, allowed[:, :, alive], ascent.share[:, :, alive], through[:, :, alive])

    def _propagated(self, allowed: Bools) -> tuple[Bools, Ints]:
        """Rule out what does not fit beside what is fixed; nodes for which that leaves a unit or memory nowhere go."""
        while True:
            fixed = allowed & (allowed.sum(axis=1) == 1)[:, None]
            fits = np.ones_like(allowed)
            dead = np.zeros(allowed.shape[2], dtype=bool)
            for load in self._given.loads:
                held = (fixed * load[:, :, None]).sum(axis=0)
                fits &= fixed | (load[:, :, None] <= 1 + ROUNDING - held)
                dead |= (held > 1 + ROUNDING).any(axis=0)
            fewer = allowed & fits
            dead |= ~fewer.any(axis=1).all(axis=0)
            if (fewer == allowed)[:, :, ~dead].all():
                break
            allowed = fewer
        if self._weighs:
            most = (allowed * self._need[:, None, None]).sum(axis=0)
            dead |= np.minimum(most, self._share_of_all[:, None]).sum(axis=0) < 1 - ROUNDING
        return allowed, np.flatnonzero(~dead)

    def _ascended(self, allowed: Bools, nodes: Nodes, num_steps: int, limits: Floats) -> _Ascent:
        """Subgradient steps of length after Polyak, each node by itself; values are rounded, to be quick."""
        given, paths, num = self._given, self._roughly, len(nodes)
        prices, columns = nodes.prices.T.copy(), np.arange(num)
        best = _Ascent(np.full(num, -np.inf), prices.copy(), np.zeros(allowed.shape))
        reach, waited, direction = np.ones(num), np.zeros(num), np.zeros_like(prices)
        patience = PATIENCE if num_steps == STEPS else 2 * PATIENCE
        for _ in range(num_steps):
            owners, cost = paths.cheapest(allowed, nodes.root, prices)
            value = cost - (prices * limits).sum(axis=0)
            excess = self._excess(owners)
            self._consider(owners, excess, value)
            goal = min(self._upper, given.far)
            gained = value > best.value + 1e-4 * np.minimum(goal - best.value, goal)
            better = np.flatnonzero(value > best.value)
            best.value[better], best.prices[:, better] = value[better], prices[:, better]
            waited = np.where(gained, 0, waited + 1)
            reach[waited >= patience] /= 2
            waited[waited >= patience] = 0
            best.share *= FADING
            best.share[self._units[:, None], owners, columns] += 1
            if (best.value >= self._closed_at()).all() or self._budget.spent:
                break  # any prices give a bound
            excess += 1 - limits
            direction = np.where((excess > 0) | (prices > 0), excess, 0.0) + DEFLECTION * direction
            length = np.maximum((direction**2).sum(axis=0), 1e-18)
            prices = np.maximum(0.0, prices + reach * np.maximum(goal - value, 1e-6 * goal) / length * direction)
        return best

    def _excess(self, owners: Ints) -> Floats:
        """Use over limit less 1, by price [p, n]."""
        used = self._given.used(owners).reshape(self._num_prices - 1, owners.shape[1])
        return np.concatenate([used, self._given.second_used(owners)[None]]) - 1

    def _consider(self, owners: Ints, excess: Floats, value: Floats) -> None:
        """Take the cheapest path that keeps every limit for the best plan, if it is one."""
        kept = np.flatnonzero((excess <= ROUNDING).all(axis=0) & (value < self._closed_at()))
        if not len(kept):
            return
        costs = self._given.cost(owners[:, kept])
        first = int(costs.argmin())
        if costs[first] < self._upper:
            self._take(owners[:, kept[first]])

    def _take(self, owners: Ints) -> None:
        runs = self._given.runs(owners)
        cost = self._judge(runs)
        if cost < self._upper:
            self._upper, self._runs = cost, runs

    def _children(self, nodes: Nodes, allowed: Bools, share: Floats, through: Floats) -> Nodes:
        """One node for each device of the unit that is branched over; nodes with nothing left open are plans."""
        nodes_at = np.arange(len(nodes))
        several = allowed.sum(axis=1) > 1
        for n in np.flatnonzero(~several.any(axis=0)).tolist():
            owners = allowed[:, :, n].argmax(axis=1)
            if self._given.cost(owners[:, None])[0] < self._upper:
                self._take(owners)
        share = np.where(allowed, share, 0.0)
        doubt = 1 - share.max(axis=1) / np.maximum(share.sum(axis=1), 1e-12)
        unit = np.where(several, (doubt + SURE) * self._size[:, None], -1.0).argmax(axis=0)
        named = ((nodes.used[:, None] >> self._bits) & 1).astype(bool)
        first = named | (self._earlier < 0) | named[:, self._earlier]
        parent, device = np.nonzero(allowed[unit, :, nodes_at] & several.any(axis=0)[:, None] & first)
        masks = (allowed << self._bits[None, :, None]).sum(axis=1).T.astype(np.uint16)[parent]
        masks[np.arange(len(parent)), unit[parent]] = 1 << device
        bound = np.maximum(nodes.bound[parent], through[unit[parent], device, parent])
        return Nodes(masks, nodes.prices[parent], bound, nodes.root[parent], nodes.used[parent] | (1 << device))
