"""How long a step takes: as long as it does. A device that is emulated as a slower one takes its time besides."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Pace = Callable[[Callable[[], Tensor]], Tensor]
"""Does the work that it is given, and returns what that returns."""


def own_pace(work: Callable[[], Tensor]) -> Tensor:
    """As fast as this machine can."""
    return work()
