"""Sends a message again until it is answered: a lost message, or a lost answer, delays a ring and does not stop it.

The connections of torch RPC lose nothing while they stand; a tunnel that is resumed, a device that was frozen and the
in-process network do. Only for endpoints that may be told twice. A device that is gone, and whatever the receiver
raises, ends the sending at once.

Nothing here refers to itself: what a message holds is free as soon as it is answered, without the garbage collector,
which does not come by where a device idles.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from shardnet.errors import CallTimeout
from shardnet.transport.outcomes import pass_on

Send = Callable[[float], "Future[Any]"]
"""Sends once; takes how long to wait for the answer, in s."""

MOST_S = 60.0
"""The waits double up to this, or stay at the first one where that is longer."""


def never() -> bool:
    """For deliveries that are always of use."""
    return False


class Delivery:
    """A message that is sent, and sent again whenever no answer has come in time.

    Args:
        send: sends the message.
        on_answer: called once, with the answer, or what it failed of.
        first_s: how long to wait for the first answer.
        most_tries: how often to send at most; None for no limit, where a receiver may keep a message waiting.
        is_over: when this is true nobody needs the answer any more: the next timeout is the last.
    """

    __slots__ = ("_first_s", "_is_over", "_most_tries", "_on_answer", "_send")

    def __init__(
        self,
        send: Send,
        on_answer: Callable[[Future[Any]], None],
        *,
        first_s: float,
        most_tries: int | None = None,
        is_over: Callable[[], bool] = never,
    ) -> None:
        self._send = send
        self._on_answer = on_answer
        self._first_s = first_s
        self._most_tries = most_tries
        self._is_over = is_over

    def begin(self) -> None:
        """Send for the first time."""
        self._attempt(1)

    def _attempt(self, number: int) -> None:
        doubled_s = self._first_s * 2.0 ** min(number - 1, 30)
        wait_s = min(doubled_s, max(MOST_S, self._first_s))
        self._send(wait_s).add_done_callback(partial(self._judge, number))

    def _judge(self, number: int, sent: Future[Any]) -> None:
        may_try = self._most_tries is None or number < self._most_tries
        if may_try and isinstance(sent.exception(), CallTimeout) and not self._is_over():
            self._attempt(number + 1)
        else:
            self._on_answer(sent)


def answer_of(
    send: Send, *, first_s: float, most_tries: int | None = None, is_over: Callable[[], bool] = never
) -> Future[Any]:
    """The answer to a `Delivery`, for who waits for it."""
    answer: Future[Any] = Future()
    on_answer = partial(pass_on, answer)
    Delivery(send, on_answer, first_s=first_s, most_tries=most_tries, is_over=is_over).begin()
    return answer
