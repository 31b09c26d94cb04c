"""Sessions that are being closed: of each, what the stages of a ring have not answered yet."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from shardnet.session.route import Ring, ask_stage
from shardnet.transport.base import Transport

CLOSE_SESSION_S = 1.0
"""After so long without an answer, a stage is told again to free a session."""


class Closings:
    """
    Args:
        is_over: whether nobody is to be told any more.
    """

    def __init__(self, transport: Transport, is_over: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_over = is_over
        self._asked: dict[int, list[Future[Any]]] = {}

    def begin(self, ring: Ring, session: int) -> None:
        """Tell all stages of a ring to free it."""
        self._asked[session] = [self._ask(ring, index, session) for index in range(len(ring.stops))]

    def _ask(self, ring: Ring, stage: int, session: int) -> Future[Any]:
        what, is_over = (session,), self._is_over
        return ask_stage(self._transport, ring, stage, "close_sessions", what, CLOSE_SESSION_S, is_over=is_over)

    def under_way(self) -> list[int]:
        """Those that not all stages have freed."""
        return [session for session, asked in self._asked.items() if not all(each.done() for each in asked)]

    def answers(self) -> list[Future[Any]]:
        """All that were asked for."""
        return [each for asked in self._asked.values() for each in asked]

    def drop_done(self) -> None:
        """Forget those that all stages have freed."""
        self._asked = {session: self._asked[session] for session in self.under_way()}
