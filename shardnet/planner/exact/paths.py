"""The cheapest paths through all units under prices, for many nodes of a branch and bound at once. Pure.

Index letters as in `assignment`; n numbers nodes, p prices: of each load and device, then of the second amount.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shardnet.planner.exact.assignment import Assignment
from shardnet.planner.tables import Floats, Ints

Bools = NDArray[np.bool_]
Rounded = NDArray[np.floating]
"""Of the width that was asked for."""


class Paths:
    """The paths of one assignment problem, in numbers of one width: narrow ones are quick, and prove nothing."""

    def __init__(self, assignment: Assignment, width: type[np.floating]) -> None:
        self._width, self._has_second = width, assignment.has_second
        self._unit, self._hop = assignment.unit.astype(width), assignment.hop.astype(width)
        self._second, self._second_hop = assignment.second.astype(width), assignment.second_hop.astype(width)
        self._loads, self._far = assignment.loads.astype(width), width(assignment.far)

    def cheapest(self, allowed: Bools, root: Ints, prices: Floats) -> tuple[Ints, Floats]:
        """The cheapest path of each node [u, n] and its cost [n], limits aside.

        Args:
            allowed: [u, d, n]
            root: [n] the device of unit 0.
            prices: [p, n]
        """
        prices = prices.astype(self._width)
        reached = self._forward(self._priced(allowed, prices), prices)
        whole = reached[-1] + self._hop_to(-1, root, prices)
        owners = np.empty((len(reached), whole.shape[1]), dtype=np.int64)
        owners[-1] = whole.argmin(axis=0)
        for u in range(len(reached) - 2, -1, -1):
            owners[u] = (reached[u] + self._hop_to(u, owners[u + 1], prices)).argmin(axis=0)
        return owners, whole.min(axis=0).astype(float)

    def through(self, allowed: Bools, root: Ints, prices: Floats) -> Floats:
        """The cost of the cheapest path through each (unit, device) [u, d, n], limits aside."""
        prices = prices.astype(self._width)
        unit = self._priced(allowed, prices)
        onward = np.empty_like(unit)
        onward[-1] = self._hop_to(-1, root, prices)
        for u in range(len(unit) - 2, -1, -1):
            onward[u] = ((onward[u + 1] + unit[u + 1])[None] + self._hop_from(u, prices)).min(axis=1)
        onward += self._forward(unit, prices)
        return onward.astype(float)

    def _priced(self, allowed: Bools, prices: Rounded) -> Rounded:
        """Costs of units with prices [u, d, n]."""
        by_device = prices[:-1].reshape(*self._loads.shape[::2], -1)
        unit = np.where(allowed, self._unit[:, :, None], self._far)
        for load, price in zip(self._loads, by_device):
            unit += load[:, :, None] * price
        if self._has_second:
            unit += self._second[:, :, None] * prices[-1]
        return unit

    def _hop_from(self, u: int, prices: Rounded) -> Rounded:
        """Costs of hops after unit u with prices [d, e, n], or [d, e, 1] where these do not matter."""
        hop: Rounded = self._hop[u][:, :, None]
        return hop + self._second_hop[u][:, :, None] * prices[-1] if self._has_second else hop

    def _hop_to(self, u: int, device: Ints, prices: Rounded) -> Rounded:
        """The same to one device of each node [d, n]."""
        hop: Rounded = self._hop[u][:, device]
        return hop + self._second_hop[u][:, device] * prices[-1] if self._has_second else hop

    def _forward(self, unit: Rounded, prices: Rounded) -> Rounded:
        """The cheapest way to have placed each unit on each device [u, d, n]."""
        reached = np.empty_like(unit)
        reached[0] = unit[0]
        for u in range(1, len(unit)):
            np.minimum.reduce(reached[u - 1][:, None] + self._hop_from(u - 1, prices), axis=0, out=reached[u])
            reached[u] += unit[u]
        return reached
