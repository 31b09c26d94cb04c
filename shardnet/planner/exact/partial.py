"""Partial plans of a search unit by unit: what the first units cost and use. Pure.

Index letters as in `assignment`; n numbers partial plans, l loads by kind and device; then comes the second amount.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardnet.planner.tables import Floats, Ints


@dataclass(frozen=True)
class Partial:
    """Partial plans in rows, all of the same length.

    Attributes:
        owners: [n, u] the device of each unit that is placed; cost: [n]; used: [n, l] of each load over its limit.
        bound: [n] no plan that begins so costs less; named: [n] a bit for each device that is used.
    """

    owners: NDArray[np.uint8]
    cost: Floats
    used: Floats
    bound: Floats
    named: Ints

    def __len__(self) -> int:
        return len(self.cost)

    @property
    def num_placed(self) -> int:
        """Units that have their device."""
        return self.owners.shape[1]

    @property
    def device(self) -> Ints:
        """[n] of the last unit that is placed."""
        return self.owners[:, -1].astype(np.int64)

    def take(self, rows: Ints) -> Partial:
        """The partial plans of these rows."""
        return Partial(self.owners[rows], self.cost[rows], self.used[rows], self.bound[rows], self.named[rows])

    def groups(self, most: int, weights: Floats) -> list[Partial]:
        """Parts of at most so many, alike in what they use: halved where the weighted use differs most."""
        if len(self) <= most:
            return [self]
        widest = int((self.used.std(axis=0) * weights).argmax())
        order = np.argpartition(self.used[:, widest], len(self) // 2)
        halves = order[: len(self) // 2], order[len(self) // 2 :]
        return [group for half in halves for group in self.take(half).groups(most, weights)]
