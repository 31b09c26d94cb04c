"""One look at the cluster for all who watch it: however many pages are open, it is asked once.

Nobody is asked while nobody watches. Who reads slowly misses statuses, of which the newest counts, and no event that is
still among the last ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from shardnet.errors import ShardnetError

LOOK_EVERY_S = 0.3
"""A loss and its repair are to be seen within a second."""
QUIET_S = 1.0
"""After so long a status that is as it was is told again: a page that hears nothing for longer is cut off."""
MOST_KEPT = 200

Happened = dict[str, Any]
_log = logging.getLogger(__name__)


class News(NamedTuple):
    """Something that is told: a `status`, what has `happened`, or that the cluster is `away`."""

    kind: str
    content: dict[str, Any]


class _Seen(NamedTuple):
    number: int
    news: News


def happened_since(before: Sequence[Happened], now: Sequence[Happened]) -> list[Happened]:
    """What is in the last events now and was not before; each is a list of the last ones, the oldest first. Pure.

    Where they share nothing, all has happened since: many events came, or another coordinator is there.
    """
    for size in range(min(len(before), len(now)), 0, -1):
        if list(before[-size:]) == list(now[:size]):
            return list(now[size:])
    return list(now)


class Watching:
    """Looks at a cluster as long as somebody follows. Belongs to one event loop.

    Args:
        status: gives how it is, as `ClusterView.status`; called on a thread of its own.
    """

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shardnet-watching")
        self._asking: asyncio.Future[dict[str, Any]] | None = None
        self._asked_s = -LOOK_EVERY_S
        self._followers = 0
        self._looking: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._latest: _Seen | None = None
        self._told: News | None = None
        self._told_s = -QUIET_S
        self._events: list[Happened] = []
        self._kept: deque[_Seen] = deque(maxlen=MOST_KEPT)
        self._number = 0

    async def look(self) -> dict[str, Any]:
        """How the cluster is now; who asks within `LOOK_EVERY_S` of another hears the same.

        Raises:
            ShardnetError: it does not answer.
        """
        now_s = time.monotonic()
        if self._asking is None or (self._asking.done() and now_s >= self._asked_s + LOOK_EVERY_S):
            self._asked_s = now_s
            self._asking = asyncio.get_running_loop().run_in_executor(self._thread, self._status)
        return await asyncio.shield(self._asking)

    async def follow(self) -> AsyncGenerator[News, None]:
        """The last events, how the cluster is, and from then on what changes. Ends with whoever iterates."""
        self._followers += 1
        if self._looking is None:
            self._latest, self._told = None, None
            self._looking = asyncio.create_task(self._look_on())
        number = -1
        try:
            while True:
                async with self._changed:
                    while self._latest is None or self._latest.number <= number:
                        await self._changed.wait()
                    waiting = [each for each in (*self._kept, self._latest) if each.number > number]
                for each in waiting:
                    yield each.news
                number = waiting[-1].number
        finally:
            self._followers -= 1
            if self._followers == 0 and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def _look_on(self) -> None:
        while True:
            began_s = time.monotonic()
            try:
                shown = await self.look()
            except ShardnetError as error:
                await self._tell([], News("away", {"text": str(error)}))
            except Exception as error:  # whatever it is, who follows must hear something
                _log.error("looking at the cluster failed: %s: %s", type(error).__name__, error)
                await self._tell([], News("away", {"text": "The server cannot read how the cluster is. See its log."}))
            else:
                events = shown.get("events", [])
                new = happened_since(self._events, events)
                self._events = events
                rest = {key: value for key, value in shown.items() if key != "events"}
                await self._tell(new, News("status", rest))
            await asyncio.sleep(max(0.0, began_s + LOOK_EVERY_S - time.monotonic()))

    async def _tell(self, events: Sequence[Happened], news: News) -> None:
        now_s = time.monotonic()
        if not events and news == self._told and now_s < self._told_s + QUIET_S:
            return
        async with self._changed:
            for event in events:
                self._kept.append(_Seen(self._next(), News("happened", event)))
            self._told, self._told_s = news, now_s
            self._latest = _Seen(self._next(), News(news.kind, {"at_s": round(time.time(), 3), **news.content}))
            self._changed.notify_all()

    def _next(self) -> int:
        self._number += 1
        return self._number
