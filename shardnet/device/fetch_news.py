"""Tells on the device itself that it is fetching weights: now and then, and when all came."""

from __future__ import annotations

import time
from collections.abc import Callable

from shardnet.shipping.words import bar_of, outcome_of
from shardnet.transport.shipping_messages import FetchProgress

TELL_EVERY_S = 10.0


class FetchNews:
    """Of one device."""

    def __init__(self, tell: Callable[[str, str], object]) -> None:
        """Args: `tell`, told "fetching" or "fetched", and a sentence."""
        self._tell = tell
        self._due_s: dict[tuple[int, int], float] = {}
        """When it is told again how far units are, by the first and the last one."""

    def hear(self, fetched: FetchProgress) -> None:
        """One more part came."""
        units = fetched.first_unit, fetched.last_unit
        now_s = time.monotonic()
        if fetched.done_bytes == fetched.total_bytes:
            self._due_s.pop(units, None)
            self._tell("fetched", outcome_of(fetched))
        elif now_s >= self._due_s.get(units, 0.0):
            self._due_s[units] = now_s + TELL_EVERY_S
            self._tell("fetching", bar_of(fetched))
