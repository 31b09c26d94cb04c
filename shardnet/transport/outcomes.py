"""Outcomes, which are what an endpoint returned or the `Failure` that it ended in, and the futures that carry them."""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from typing import Any

from shardnet.errors import ShardnetError
from shardnet.transport.failure import Failure, decode, encode, timed_out
from shardnet.transport.timers import Timers


def settle(answer: Future[Any], outcome: Any) -> None:
    """Give a future its result, or its error where the outcome is one. Does nothing when it has one already."""
    try:
        if type(outcome) is Failure:
            answer.set_exception(decode(outcome))
        elif isinstance(outcome, ShardnetError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)
    except InvalidStateError:
        pass  # it timed out, was cancelled, or its device was evicted


def failed(error: ShardnetError) -> Future[Any]:
    """A future that has failed."""
    answer: Future[Any] = Future()
    answer.set_exception(error)
    return answer


def outcome_of(done: Future[Any], device: str, endpoint: str) -> Any:
    """The value of a future that a handler returned, or what it failed of."""
    if done.cancelled():
        return Failure("ClusterError", f"{device} gave {endpoint!r} up.", device)
    error = done.exception()
    return done.result() if error is None else encode(error, device, endpoint)


class OwnCalls:
    """The calls of a device to itself whose handlers answer later."""

    def __init__(self, device: str, timers: Timers) -> None:
        self._device = device
        self._timers = timers
        self._pending: set[Future[Any]] = set()

    def settle(self, outcome: Any, endpoint: str, timeout_s: float) -> Future[Any]:
        """The answer of a call whose handler has run already, and may have returned a future."""
        answer: Future[Any] = Future()
        if not isinstance(outcome, Future):
            settle(answer, outcome)
            return answer
        timer = self._timers.after(timeout_s, lambda: settle(answer, timed_out(self._device, endpoint, timeout_s)))
        self._pending.add(answer)
        answer.add_done_callback(self._pending.discard)
        answer.add_done_callback(timer.cancel)
        outcome.add_done_callback(lambda done: settle(answer, outcome_of(done, self._device, endpoint)))
        return answer

    def fail_pending(self, error: ShardnetError) -> None:
        """Fail what is still due: the device leaves."""
        for answer in list(self._pending):
            settle(answer, error)
