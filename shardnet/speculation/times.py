"""How long something takes by how many rows go through together, from what was measured of it. Pure.

What was never measured with as many rows is taken to lie between what was measured with fewer and with more, in
proportion to what is expected: each row beyond the first takes `MORE` of what the first one takes.
"""

from __future__ import annotations

from collections import deque
from statistics import median

MORE = 0.12
LAST = 5
"""The middle of so many measurements counts."""
FORGOTTEN_AFTER = 512
"""So many measurements of others later, one is not believed any more: it is tried again."""


def expected(num_rows: int) -> float:
    """In proportion to one row."""
    return 1.0 + MORE * (num_rows - 1)


class Times:
    """Of one thing."""

    def __init__(self) -> None:
        self._ratios: dict[int, deque[float]] = {}
        """By number of rows: measured seconds over `expected`."""
        self._noted: dict[int, int] = {}
        self._num_noted = 0

    def note(self, num_rows: int, seconds: float) -> None:
        """It took so long once."""
        self._num_noted += 1
        self._ratios.setdefault(num_rows, deque(maxlen=LAST)).append(seconds / expected(num_rows))
        self._noted[num_rows] = self._num_noted
        if len(self._ratios) > 1:
            for rows in [each for each, at in self._noted.items() if self._num_noted - at > FORGOTTEN_AFTER]:
                del self._ratios[rows], self._noted[rows]

    def num_measured(self, num_rows: int) -> int:
        """So often it was measured with so many rows, or fewer; `LAST` counts for more, too."""
        return max((len(found) for rows, found in self._ratios.items() if rows <= num_rows), default=0)

    @property
    def most_rows(self) -> int:
        """That were measured; 0 where nothing was."""
        return max(self._ratios, default=0)

    def seconds(self, num_rows: int) -> float | None:
        """With so many rows; None where nothing was measured."""
        if not self._ratios:
            return None
        below = max((rows for rows in self._ratios if rows <= num_rows), default=None)
        above = min((rows for rows in self._ratios if rows >= num_rows), default=None)
        if below is None or above is None:
            nearest = below if above is None else above
            assert nearest is not None
            return self._middle(nearest) * expected(num_rows)
        if below == above:
            return self._middle(below) * expected(num_rows)
        share = (num_rows - below) / (above - below)
        return ((1 - share) * self._middle(below) + share * self._middle(above)) * expected(num_rows)

    def _middle(self, num_rows: int) -> float:
        return median(self._ratios[num_rows])
