"""Where the time of a run's sessions goes that losses cost them."""

from __future__ import annotations

from collections.abc import Callable

from shardnet.simulator.conversations import Conversations
from shardnet.simulator.engine import Engine
from shardnet.simulator.repairs import CAUSES, Repairs


class LostTime:
    """Counts while a run goes on.

    Args:
        why_still: what the sessions wait for now, one of `CAUSES`; None where they go on.
    """

    def __init__(self, conversations: Conversations, engine: Engine, why_still: Callable[[], str | None]) -> None:
        self._conversations, self._engine, self._why_still = conversations, engine, why_still
        self._lost_s = dict.fromkeys(CAUSES, 0.0)
        self._cause: str | None = None
        self._since_s = 0.0
        self._num_repairs = 0

    def look(self) -> None:
        """Something happened."""
        cause = self._why_still()
        if cause is None and self._cause is None:
            return
        if self._cause is not None:
            self._lost_s[self._cause] += (self._engine.now_s - self._since_s) * self._conversations.num_active
            self._conversations.delay_all()
        self._cause, self._since_s = cause, self._engine.now_s

    def repaired(self) -> None:
        """A ring took over after a loss."""
        self._num_repairs += 1

    def repairs(self) -> Repairs:
        conversations = self._conversations
        done = conversations.requests
        spent_s = sum((each.end_s or each.start_s) - each.start_s for each in done) + conversations.under_way_s
        lost_s = {**self._lost_s, "moving": conversations.moving_s}
        return Repairs(self._num_repairs, spent_s, lost_s, conversations.num_delayed)
