"""The open nodes of a branch and bound, those of the least bounds at hand and the others put away. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardnet.planner.tables import Floats, Ints

MOST_AT_HAND = 8192


@dataclass
class Nodes:
    """Nodes in rows.

    Attributes:
        masks: [n, u] a bit for each device where a unit still may be.
        prices: [n, p]; bound: [n]; root: [n] the device of unit 0; used: [n] a bit for each device that a branch named.
    """

    masks: NDArray[np.uint16]
    prices: Floats
    bound: Floats
    root: Ints
    used: Ints

    def __len__(self) -> int:
        return len(self.bound)

    def take(self, rows: Ints) -> Nodes:
        """The nodes of these rows."""
        return Nodes(self.masks[rows], self.prices[rows], self.bound[rows], self.root[rows], self.used[rows])


def joined(parts: list[Nodes]) -> Nodes:
    """All the nodes of some parts."""
    names = ("masks", "prices", "bound", "root", "used")
    return Nodes(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class OpenNodes:
    """Takes nodes in, and gives those of the least bounds."""

    def __init__(self) -> None:
        self._at_hand: list[Nodes] = []
        self._away: list[Nodes] = []
        self._limit = np.inf
        """Nodes with a bound above this one are put away."""

    def add(self, nodes: Nodes) -> None:
        """Take nodes in."""
        if not len(nodes):
            return
        near = nodes.bound <= self._limit
        if near.all():
            self._at_hand.append(nodes)
            return
        self._at_hand.append(nodes.take(np.flatnonzero(near)))
        self._away.append(nodes.take(np.flatnonzero(~near)))

    def take(self, num: int, closed_at: float) -> Nodes | None:
        """So many nodes of the least bounds under the limit; None where there is none left."""
        if not sum(len(part) for part in self._at_hand):
            if not self._away:
                return None
            self._at_hand, self._away, self._limit = self._away, [], np.inf
        nodes = joined(self._at_hand)
        nodes = nodes.take(np.flatnonzero(nodes.bound < closed_at))
        if not len(nodes):
            self._at_hand = []
            return self.take(num, closed_at)
        if len(nodes) > MOST_AT_HAND:
            order = np.argpartition(nodes.bound, MOST_AT_HAND // 2)
            keep, rest = order[: MOST_AT_HAND // 2], order[MOST_AT_HAND // 2 :]
            self._away.append(nodes.take(rest))
            nodes, self._limit = nodes.take(keep), float(nodes.bound[keep].max())
        order = np.argpartition(nodes.bound, num) if len(nodes) > num else np.arange(len(nodes))
        self._at_hand = [nodes.take(order[num:])]
        return nodes.take(order[:num])

    def least(self) -> float:
        """The least bound of all; inf where no node is open."""
        return min((float(part.bound.min()) for part in [*self._at_hand, *self._away] if len(part)), default=np.inf)
