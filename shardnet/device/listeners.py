"""Tells those who listen to sessions what was sampled for them, straight: once, and only as long as they answer.

What does not arrive their coordinator tells them. So nothing is kept here and sent again, and nobody waits: who is
stopped, gone, or out of reach costs a few messages that are not answered, and then one attempt every few seconds.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial
from typing import Any

from shardnet.transport.base import Transport
from shardnet.transport.listener_messages import StraightTokens

ANSWER_S = 2.0
QUIET_S = 5.0
"""For so long one that has not answered in time, or is gone, is told nothing."""
MOST_OPEN = 32
"""Messages that one may leave unanswered: 50 steps a second over a link with a round trip of half a second."""


class Listeners:
    """Safe to use from several threads."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._num_open: dict[str, int] = {}
        """By member: messages that are not answered."""
        self._quiet: set[str] = set()

    def tell(self, member: str, tokens: StraightTokens) -> None:
        """Tell what was sampled, unless there is no use in it now. Does not wait."""
        with self._lock:
            num_open = self._num_open.get(member, 0)
            if member in self._quiet or num_open >= MOST_OPEN:
                return
            self._num_open[member] = num_open + 1
        told = self._transport.post(member, "hear", tokens, timeout_s=ANSWER_S)
        told.add_done_callback(partial(self._has_answered, member))

    def _has_answered(self, member: str, told: Future[Any]) -> None:
        with self._lock:
            num_open = self._num_open.pop(member) - 1
            if num_open:
                self._num_open[member] = num_open
            if told.exception() is None or member in self._quiet:
                return
            self._quiet.add(member)
        self._transport.after(QUIET_S, partial(self._quiet.discard, member))
