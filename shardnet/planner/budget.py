"""Time for a search: the only clock of the planner, and it decides nothing but when to stop.

What counts is the processor's time, so that a busy machine gets the plan that an idle one gets; but a search never
takes more than half as long again by the clock on the wall.
"""

from __future__ import annotations

import time

MOST_STRETCH = 1.5


class Budget:
    """So many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._processor_end_s = time.thread_time() + seconds
        self._end_s = time.perf_counter() + seconds * MOST_STRETCH

    @property
    def left_s(self) -> float:
        """Seconds that are left, 0 when it is spent."""
        on_the_wall = (self._end_s - time.perf_counter()) / MOST_STRETCH
        return max(0.0, min(self._processor_end_s - time.thread_time(), on_the_wall))

    @property
    def spent(self) -> bool:
        return self.left_s == 0

    def share(self, share: float) -> Budget:
        """That share of what is left."""
        return Budget(self.left_s * share)

    def at_most(self, seconds: float) -> Budget:
        """So many seconds of it, or all that is left."""
        return Budget(min(self.left_s, seconds))
