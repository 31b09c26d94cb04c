"""Who is answered next where memory is spent: the clients in turns, each in the order in which it asked."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shardnet.errors import KVMemorySpent
from shardnet.serve.errors import ApiError, sentence

Opened = TypeVar("Opened")
LOOK_AGAIN_S = 0.5
"""Memory also becomes free where nobody here hears of it."""
MOST_AGAIN_S = 60


class Line:
    """Lives in an event loop. Nobody waits as long as there is memory.

    Args:
        most_waiting: requests that may wait at the same time.
        wait_s: how long one may.
    """

    def __init__(self, most_waiting: int, wait_s: float) -> None:
        self._most_waiting = most_waiting
        self._wait_s = wait_s
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """Of each client who waits, in the order in which it is their turn."""
        self._is_trying = False
        """Who is first tries, and all others wait behind."""
        self._room = asyncio.Event()
        self._took_s = 1.0
        """What an answer took of late."""

    @property
    def num_waiting(self) -> int:
        return sum(map(len, self._lines.values())) + self._is_trying

    def note_end(self, took_s: float) -> None:
        """An answer has ended, which took so long: there may be room."""
        self._took_s = 0.8 * self._took_s + 0.2 * took_s
        self._room.set()

    async def open(self, client: str, attempt: Callable[[], Awaitable[Opened]]) -> Opened:
        """What an attempt gives, as soon as it finds memory.

        Raises:
            ApiError: 429, there is none for too long, or too many wait already.
        """
        deadline_s = time.monotonic() + self._wait_s
        if not self._is_trying:
            try:
                return await attempt()
            except KVMemorySpent as error:
                spent = error
        else:
            spent = KVMemorySpent("the memory for conversations is spent, and others wait for it.")
        await self._turn(client, deadline_s, spent)
        try:
            return await self._first(attempt, deadline_s)
        finally:
            self._pass_on()

    async def _turn(self, client: str, deadline_s: float, spent: KVMemorySpent) -> None:
        """Wait to be the first."""
        if self.num_waiting >= self._most_waiting:
            raise self._refusal(spent)
        if not self._is_trying:
            self._is_trying = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(client, deque()).append(turn)
        try:  # `wait_for` of Python 3.11 forgets that it was cancelled where the turn comes at the same moment
            await asyncio.wait((turn,), timeout=max(0.0, deadline_s - time.monotonic()))
        except asyncio.CancelledError:
            self._leave(client, turn)
            raise
        if not turn.done():
            self._leave(client, turn)
            raise self._refusal(spent)

    async def _first(self, attempt: Callable[[], Awaitable[Opened]], deadline_s: float) -> Opened:
        while True:
            self._room.clear()
            try:
                return await attempt()
            except KVMemorySpent as spent:
                if time.monotonic() >= deadline_s:
                    raise self._refusal(spent) from spent
            again = asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._room.set)
            try:
                await self._room.wait()
            finally:
                again.cancel()

    def _pass_on(self) -> None:
        """The next one is the first, of the client whose turn it is."""
        while self._lines:
            client, waiting = next(iter(self._lines.items()))
            turn = waiting.popleft()
            del self._lines[client]
            if waiting:
                self._lines[client] = waiting  # behind all others
            if not turn.done():
                turn.set_result(None)
                return
        self._is_trying = False

    def _leave(self, client: str, turn: asyncio.Future[None]) -> None:
        """Somebody waits no longer; where it was just its turn, that is passed on."""
        if turn.done():
            self._pass_on()
            return
        waiting = self._lines.get(client, deque())
        if turn in waiting:
            waiting.remove(turn)
        if not waiting:
            self._lines.pop(client, None)

    def _refusal(self, spent: KVMemorySpent) -> ApiError:
        again_s = min(MOST_AGAIN_S, max(1, math.ceil(self._took_s)))
        return ApiError(429, sentence(str(spent)), code="kv_memory_spent", retry_after_s=again_s)
