"""Plans by annealing: many assignments at once, in which units change devices while it cools. Pure. Proves nothing.

Simulated annealing (Kirkpatrick, Gelatt and Vecchi, 1983). Steps put a unit elsewhere, or where its neighbour is, or
exchange two. What is over a limit has a price, higher for the assignments that stay over it and lower for those that
do not (strategic oscillation, Glover, 1989): under tight memory the best plans lie where hardly any plan fits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shardnet.planner.budget import Budget
from shardnet.planner.costs import ROUNDING
from shardnet.planner.exact.assignment import Assignment
from shardnet.planner.tables import Floats, Ints

NUM_CHAINS = 128
HEAT = 0.5, 0.01
"""The first and the last temperature, in mean costs of a unit and a hop."""
PRICES = 1.0, 30.0
"""The first prices of a mean load over a limit, from the first chain to the last."""
ROUND = 100
"""Steps after which it cools and prices change."""
DEARER, CHEAPER = 1.2, 0.9


def anneal(
    assignment: Assignment,
    value: Callable[[Ints], Floats],
    num_steps: int,
    budget: Budget,
    chance: np.random.Generator,
    heat: tuple[float, float] = HEAT,
) -> tuple[Ints, Floats]:
    """The best assignments within the limits [u, n] and their values [n], the best first; none where none was found.

    Args:
        value: [n] of assignments [u, n]; what is to be least.
        heat: the first and the last temperature.
    """
    chains, (hot, cold) = _Chains(assignment, value, chance), heat
    given_s, progress, step = budget.left_s, 0.0, 0
    while progress < 1 and not budget.spent:
        for _ in range(ROUND):
            chains.step(step, hot * (cold / hot) ** progress)
            step += 1
        chains.reprice()
        progress = max(step / num_steps, 1 - budget.left_s / given_s)  # where time is short it cools faster
    order = np.argsort(chains.least, kind="stable")
    order = order[np.isfinite(chains.least[order])]
    return chains.best[:, order], chains.least[order]


class _Chains:
    """Assignments at work."""

    def __init__(
        self,
        assignment: Assignment,
        value: Callable[[Ints], Floats],
        chance: np.random.Generator,
    ) -> None:
        self._given, self._value, self._chance = assignment, value, chance
        allowed = assignment.allowed
        self._columns = np.arange(NUM_CHAINS)
        self._owners: Ints = np.stack([chance.choice(np.flatnonzero(row), NUM_CHAINS) for row in allowed])
        self._movable = np.flatnonzero(allowed.sum(axis=1) > 1)
        self._used = assignment.used(self._owners)
        self._over = self._excess(self._owners, self._used)
        self._values = value(self._owners)
        near = assignment.hop[assignment.hop < assignment.far]
        self._scale = float(assignment.unit[allowed].mean() + np.median(near[near > 0] if (near > 0).any() else [0.0]))
        load = float(assignment.loads[0][allowed].mean()) or 1.0
        self._prices = np.geomspace(*PRICES, NUM_CHAINS) * self._scale / load
        self._kept = np.zeros(NUM_CHAINS)
        self.best, self.least = self._owners.copy(), np.full(NUM_CHAINS, np.inf)
        self._remember()

    def _excess(self, owners: Ints, used: Floats) -> Floats:
        """[n] how much is used beyond the limits."""
        over: Floats = np.maximum(used - (1 + ROUNDING), 0.0).sum(axis=(0, 1))
        if self._given.has_second:  # a device has a few units, a lap all of them
            share = len(owners) / self._given.tables.num_devices
            over = over + share * np.maximum(self._given.second_used(owners) - (1 + ROUNDING), 0.0)
        return over

    def step(self, number: int, heat: float) -> None:
        """Change every chain in one way, and keep the changes that the temperature lets pass."""
        if not len(self._movable):
            return
        columns, owners, used = self._columns, self._owners.copy(), self._used.copy()
        unit = self._drawn()
        here = owners[unit, columns]
        if number % 4 == 0:
            there = self._chance.integers(0, self._given.tables.num_devices, NUM_CHAINS)
        elif number % 4 == 1:
            there = owners[(unit + 1 - 2 * self._chance.integers(0, 2, NUM_CHAINS)) % len(owners), columns]
        else:
            other = self._drawn()
            there = owners[other, columns]
            self._move(owners, used, other, there, here)
        self._move(owners, used, unit, here, there)
        allowed = self._given.allowed[unit, there]
        if number % 4 > 1:
            allowed = allowed & self._given.allowed[other, here]
        values, over = self._value(owners), self._excess(owners, used)
        change = values - self._values + self._prices * (over - self._over)
        taken = np.flatnonzero(allowed & (change <= heat * self._scale * self._chance.exponential(size=NUM_CHAINS)))
        self._owners[:, taken], self._used[:, :, taken] = owners[:, taken], used[:, :, taken]
        self._values[taken], self._over[taken] = values[taken], over[taken]
        self._remember()

    def _drawn(self) -> Ints:
        return self._movable[self._chance.integers(0, len(self._movable), NUM_CHAINS)]

    def _move(self, owners: Ints, used: Floats, unit: Ints, here: Ints, there: Ints) -> None:
        owners[unit, self._columns] = there
        for row, load in zip(used, self._given.loads):
            row[here, self._columns] -= load[unit, here]
            row[there, self._columns] += load[unit, there]

    def _remember(self) -> None:
        kept = self._over <= 0
        self._kept += kept
        better = np.flatnonzero(kept & (self._values < self.least))
        if len(better):
            self.best[:, better], self.least[better] = self._owners[:, better], self._values[better]

    def reprice(self) -> None:
        """Raise the prices of chains that never kept the limits, lower those of chains that mostly did."""
        self._prices = np.where(self._kept == 0, self._prices * DEARER, self._prices)
        self._prices = np.where(self._kept > 0.6 * ROUND, self._prices * CHEAPER, self._prices)
        self._used = self._given.used(self._owners)  # without what rounding has gathered
        self._over = self._excess(self._owners, self._used)
        self._kept[:] = 0
