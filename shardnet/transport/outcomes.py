"""Outcomes, which are what an endpoint returned or the `Failure` that it ended in, and the futures that carry them."""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from shardnet.errors import ShardnetError
from shardnet.transport.failure import Failure, decode, encode


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


def pass_on(answer: Future[Any], sent: Future[Any]) -> None:
    """Give a future what another one, which is done, has come to."""
    error = sent.exception()
    if error is None:
        settle(answer, sent.result())
    else:
        with suppress(InvalidStateError):
            answer.set_exception(error)


def pass_on_failure(answer: Future[Any], sent: Future[Any]) -> None:
    """The same, where that one has failed."""
    if sent.exception() is not None:
        pass_on(answer, sent)
