"""Looks at the battery of this machine now and then, for a device that is to leave before it is empty."""

from __future__ import annotations

import threading
from collections.abc import Callable

from shardnet.profiling.power import PowerState, read_power

EVERY_S = 20.0
"""A phone's battery loses a percent in minutes."""


class BatteryWatch:
    """A context manager: no look begins after the block.

    Args:
        least_percent: with less than this the device leaves, where the battery is not being charged; 0 does not look.
        on_low: called once, with what is left in percent, on a thread of its own.
    """

    def __init__(
        self, least_percent: float, on_low: Callable[[float], object], read: Callable[[], PowerState] = read_power
    ) -> None:
        self._least_percent = least_percent
        self._on_low = on_low
        self._read = read
        self._is_over = threading.Event()
        self.is_low = False

    def __enter__(self) -> BatteryWatch:
        if self._least_percent > 0:
            threading.Thread(target=self._watch, name="shardnet-battery", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()

    def _watch(self) -> None:
        while not self._is_over.is_set():
            left = self._read().low_percent(self._least_percent)
            if left is not None and not self._is_over.is_set():
                self.is_low = True
                self._on_low(left)
                return
            self._is_over.wait(EVERY_S)
