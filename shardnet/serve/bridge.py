"""Tokens from the threads on which they arrive to the event loop: one wake for all that have come meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from shardnet.transport.session_messages import SampledToken

News = Sequence[SampledToken] | BaseException | None
"""Tokens that come next; or that nothing follows, and why."""


class Bridge:
    """Of one event loop. `BridgeReader.take` may be called on any thread, and does not wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arrived: deque[tuple[Callable[[News], None], News]] = deque()
        self._is_woken = False

    def reader(self, hear: Callable[[News], None]) -> BridgeReader:
        """Who reads a session for `hear`, which is called in the loop."""
        return BridgeReader(self, hear)

    def put(self, hear: Callable[[News], None], news: News) -> None:
        """Have it called in the loop, in order."""
        self._arrived.append((hear, news))
        if not self._is_woken:
            self._is_woken = True
            with suppress(RuntimeError):  # the loop is closed: nobody reads any more
                self._loop.call_soon_threadsafe(self._hand_on)

    def _hand_on(self) -> None:
        self._is_woken = False  # before looking: what arrives from here on wakes again
        while self._arrived:
            hear, news = self._arrived.popleft()
            hear(news)


class BridgeReader:
    """See `Reader`."""

    def __init__(self, bridge: Bridge, hear: Callable[[News], None]) -> None:
        self._bridge = bridge
        self._hear = hear

    def take(self, tokens: Sequence[SampledToken]) -> None:
        self._bridge.put(self._hear, tokens)

    def end(self, error: BaseException | None) -> None:
        self._bridge.put(self._hear, error)
