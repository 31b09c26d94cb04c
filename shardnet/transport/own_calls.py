"""The calls of a device to itself."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from shardnet.errors import ShardnetError
from shardnet.transport.dues import Dues
from shardnet.transport.failure import has_left
from shardnet.transport.outcomes import failed, outcome_of, settle
from shardnet.transport.timers import Timers


class OwnCalls:
    """Those whose handlers answer later are due until a time, as others' are."""

    def __init__(self, device: str, timers: Timers) -> None:
        self._device = device
        self._dues = Dues(device, timers, _nothing)

    def settle(self, outcome: Any, endpoint: str, timeout_s: float) -> Future[Any]:
        """The answer of a call whose handler has run already, and may have returned a future."""
        if not isinstance(outcome, Future):
            answer: Future[Any] = Future()
            settle(answer, outcome)
            return answer
        added = self._dues.add(endpoint, None, timeout_s)
        if added is None:
            return failed(has_left(self._device))
        number, answer = added
        outcome.add_done_callback(lambda done: self._take(number, done))
        return answer

    def _take(self, number: int, done: Future[Any]) -> None:
        due = self._dues.take(number)
        if due is not None:
            settle(due.answer, outcome_of(done, self._device, due.endpoint))

    def fail_pending(self, error: ShardnetError) -> None:
        """Fail what is still due: the device leaves."""
        for due in self._dues.end():
            settle(due.answer, error)


def _nothing() -> None:
    """Nobody but the caller minds that it took too long."""
