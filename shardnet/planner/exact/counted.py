"""Lower bounds of what is left of a plan, by paths on which two loads are counted and all others are priced. Pure.

The bound of `branching` prices every load, so that one path may fill a fast device twice, and pay for it, while another
one leaves it empty: a mixture of both costs little. Here the room of two devices is part of the state of the shortest
path (after Christofides, Mingozzi and Toth, 1981), in grains: what a unit takes is rounded down, so that all that fits
still fits. A path then keeps the limits of these two, whatever the prices.

The best prices are found by Shor's r-algorithm (1985): subgradients in a space that is stretched across the ridges.
Index letters as in `partial`; i, j are grains that are left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardnet.planner.budget import Budget
from shardnet.planner.costs import ROUNDING
from shardnet.planner.exact.assignment import Assignment
from shardnet.planner.exact.partial import Partial
from shardnet.planner.tables import Floats, Ints

Narrow = NDArray[np.float32]
Pair = tuple[int, ...]

STRETCH = 3.0
"""How much the space is stretched in one step."""
LONGER, SHORTER = 1.2, 0.8
"""Steps grow while the bound rises along them, and shrink where the first one is too long."""
PATIENCE, GAIN = 10, 1e-5
"""Steps end when so many have gained less than such a share."""


@dataclass(frozen=True)
class Table:
    """What the rest costs at least, by the next unit's device and the grains that are left before it.

    Attributes:
        cells: [u, d, i, j] from the first unit on that is not placed; prices: [l].
    """

    cells: Narrow
    prices: Floats


class Counted:
    """The paths of one assignment problem by which some partial plans may go on; these all begin at one device.

    Args:
        some: the partial plans.
        pair: the loads l that are counted, two or none.
        grain: into how many parts each of their limits is divided.
    """

    def __init__(self, assignment: Assignment, some: Partial, pair: Pair, grain: int) -> None:
        self._given, self._pair, self._grain = assignment, pair, grain
        self._root, self._first = int(some.owners[0, 0]), some.num_placed
        self._num_units, self._num_devices = assignment.allowed.shape
        self._loads: Floats = np.concatenate(assignment.loads, axis=1)
        takes = np.floor(np.minimum(self._loads[:, pair], 2.0) * (1 - ROUNDING) * grain)
        self._takes: Ints = takes.astype(np.int64)
        self._shape = tuple(max(0, int(left.max())) + 1 for left in self.left(some))
        self._able = [np.flatnonzero(row).tolist() for row in assignment.allowed]
        self._unable = [np.flatnonzero(~row) for row in assignment.allowed]
        self._beyond = self._left_over()

    def _left_over(self) -> NDArray[np.bool_]:
        """So much memory no plan leaves at its end [i, j]: the other devices could not hold the rest."""
        tables, left = self._given.tables, np.zeros(self._shape)
        spare = max(0.0, float(tables.capacity.sum() - tables.memory.sum())) + ROUNDING * float(tables.capacity.sum())
        sizes = np.cumsum(np.sort(tables.memory))
        for axis, load in enumerate(self._pair):
            if load < self._num_devices:
                room = float(tables.capacity[load])
                most = int(np.searchsorted(sizes, room * (1 + ROUNDING), "right"))
                surely = np.maximum(0, np.arange(self._shape[axis]) - most)  # each unit may have taken 1 more
                left += (surely * room / self._grain).reshape((-1,) + (1,) * (len(self._pair) - 1 - axis))
        return left > spare

    def table(self, prices: Floats) -> Table:
        """The least costs at some prices."""
        given, first, ones = self._given, self._first, (1,) * len(self._pair)
        by_device = (self._loads * prices[:-1]).reshape(self._num_units, -1, self._num_devices).sum(axis=1)
        unit = (given.unit + by_device + given.second * prices[-1]).astype(np.float32)
        hop = (given.hop + given.second_hop * prices[-1]).astype(np.float32)
        cells = np.empty((self._num_units - first, self._num_devices, *self._shape), np.float32)
        onward, sums = np.empty((2, self._num_devices, *self._shape), np.float32)
        onward[:] = hop[-1][:, self._root].reshape(-1, *ones)
        onward[:, self._beyond] = given.far
        for u in range(self._num_units - 1, first - 1, -1):
            row, able = cells[u - first], self._able[u]
            row[self._unable[u]] = given.far
            for device in able:
                after, before = self._shifts(u, device)
                if after != before:
                    row[device, ...] = given.far
                np.add(onward[device][after], unit[u, device], out=row[device, ...][before])
            for number, device in enumerate(able if u > first else ()):
                to = sums if number else onward
                np.add(hop[u - 1][:, device].reshape(-1, *ones), row[device], out=to)
                if number:
                    np.minimum(onward, sums, out=onward)
        return Table(cells, prices)

    def _shifts(self, u: int, device: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Where what is left after unit u is found, and what is left before it, where it is counted."""
        after: list[Any] = [slice(None)] * len(self._pair)
        before = after.copy()
        for axis, load in enumerate(self._pair):
            if load % self._num_devices == device:
                taken = min(int(self._takes[u, axis]), self._shape[axis])
                after[axis], before[axis] = slice(0, self._shape[axis] - taken), slice(taken, None)
        return (*after, ...), (*before, ...)

    def left(self, some: Partial) -> list[Ints]:
        """The grains of each counted load that some partial plans leave [n]."""
        takes = self._takes[: some.num_placed].astype(np.float32)
        here = [(some.owners == load % self._num_devices).astype(np.float32) for load in self._pair]
        return [self._grain - (each @ takes[:, axis]).astype(np.int64) for axis, each in enumerate(here)]

    def cells(self, table: Table, some: Partial, row: Ints, there: Ints) -> Narrow:
        """What the rest costs at least where the next unit of these rows goes there."""
        where = there
        for left, size in zip(self.left(some), self._shape):
            where = where * size + left[row]
        cells: Narrow = table.cells[some.num_placed - self._first].reshape(-1)[where]
        return cells

    def rests(self, table: Table, some: Partial) -> tuple[Floats, Floats]:
        """The bound of each partial plan [n], and what its cheapest path uses [n, l] of each load."""
        given, prices, device, each = self._given, table.prices, some.device, np.arange(len(some))
        left, owners = self.left(some), [*some.owners.T.astype(np.int64)]
        least: Floats = np.zeros(0)
        for u, cells in enumerate(table.cells, some.num_placed):
            hop = given.hop[u - 1] + prices[-1] * given.second_hop[u - 1]
            where = (slice(None), *(np.maximum(axis, 0) for axis in left))
            at = cells[where]
            onward = hop[device].T + at.reshape(self._num_devices, -1)
            device = onward.argmin(axis=0)
            least = onward[device, each] if not len(least) else least
            owners.append(device)
            for axis, load in enumerate(self._pair):
                left[axis] = left[axis] - np.where(device == load % self._num_devices, self._takes[u, axis], 0)
        whole = np.stack(owners)
        used = given.used(whole).reshape(-1, len(some))
        return (
            some.cost + some.used @ prices - prices.sum() + least,
            np.concatenate([used, given.second_used(whole)[None]]).T,
        )

    def ascend(
        self, some: Partial, prices: Floats, length: float, num_steps: int, closed_at: float, budget: Budget
    ) -> Floats:
        """Prices with which the bounds of some partial plans are high: their mean, as far as they are not closed.

        Args:
            length: of the first step.
        """
        space, best, kept = np.eye(len(prices)), -np.inf, prices
        before, direction, along, waited = np.zeros(0), np.zeros(len(prices)), 0, 0
        for _ in range(num_steps):
            bounds, used = self.rests(self.table(prices), some)
            value = float(np.minimum(bounds, closed_at).mean())
            waited = 0 if value > best + GAIN * closed_at else waited + 1
            if value > best:
                best, kept = value, prices
            open_ = bounds < closed_at
            if not open_.any() or waited > PATIENCE or budget.spent:
                break
            slope = ((used - 1) * open_[:, None]).mean(axis=0)
            slope = np.where((slope > 0) | (prices > 0), slope, 0.0)
            if len(before) and slope @ direction > 0:
                along += 1
                length *= LONGER if along > 1 else 1.0
            else:
                if len(before):
                    length *= SHORTER if along == 0 else 1.0
                    space = _stretched(space, slope - before)
                before, along, step = slope, 0, space.T @ slope
                if not step.any():
                    break
                direction = space @ step / np.linalg.norm(step)
            prices = np.maximum(0.0, prices + length * direction)
        return kept


def _stretched(space: Floats, change: Floats) -> Floats:
    """The space stretched across a change of slope."""
    across = space.T @ change
    size = float(np.linalg.norm(across))
    if size < 1e-12:
        return space
    across /= size
    stretched: Floats = space + (1 / STRETCH - 1) * np.outer(space @ across, across)
    return stretched
