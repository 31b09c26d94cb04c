"""Sends a message again until it is answered: a lost message, or a lost answer, delays a ring and does not stop it.

The connections of torch RPC lose nothing while they stand; a tunnel that is resumed, a device that was frozen and the
in-process network do. Only for endpoints that may be told twice. A device that is gone, and whatever the receiver
raises, ends the sending at once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from shardnet.errors import CallTimeout
from shardnet.transport.outcomes import settle

Send = Callable[[float], "Future[Any]"]
"""Sends once; takes how long to wait for the answer, in s."""

MOST_S = 60.0
"""The waits double up to this: whoever was frozen for an hour must not find thousands of copies."""


def send_until_answered(
    send: Send,
    on_answer: Callable[[Future[Any]], None],
    *,
    first_s: float,
    most_tries: int | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Send, and send again whenever no answer has come in time.

    Args:
        send: sends the message.
        on_answer: called once, with the answer, or what it failed of.
        first_s: how long to wait for the first answer.
        most_tries: how often to send at most; None for no limit, where a receiver may keep a message waiting.
        is_over: when this is true nobody needs the answer any more: the next timeout is the last.
    """

    def attempt(number: int) -> None:
        wait_s = min(first_s * 2.0 ** min(number - 1, 30), MOST_S)
        send(wait_s).add_done_callback(lambda sent: judge(sent, number))

    def judge(sent: Future[Any], number: int) -> None:
        may_try = most_tries is None or number < most_tries
        if may_try and isinstance(sent.exception(), CallTimeout) and not is_over():
            attempt(number + 1)
        else:
            on_answer(sent)

    attempt(1)


def answer_of(
    send: Send, *, first_s: float, most_tries: int | None = None, is_over: Callable[[], bool] = lambda: False
) -> Future[Any]:
    """The same, for who waits for the answer."""
    answer: Future[Any] = Future()

    def pass_on(sent: Future[Any]) -> None:
        error = sent.exception()
        settle(answer, sent.result() if error is None else error)

    send_until_answered(send, pass_on, first_s=first_s, most_tries=most_tries, is_over=is_over)
    return answer
