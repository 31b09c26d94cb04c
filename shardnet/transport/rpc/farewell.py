"""Has the connection to a member that has left closed.

torch keeps a connection for as long as its agent lives, and looks at it only while an answer is due: nobody notices
that the other side has closed it, and its sockets stay open, two for each member that ever was. Asked once more when
the member is gone, torch sees it. What messages to it had taken lies scattered in the heap then, and goes back.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from shardnet.errors import DeviceLost
from shardnet.process.allocator import return_freed
from shardnet.transport.timers import Timers

ENDPOINT = "members/farewell"
FIRST_S = 5.0
"""A member that says goodbye closes its agent a moment later; one that was struck off does so when it hears of it."""
TRIES = 10
"""Twice as long after each other."""


def bid_farewell(ask: Callable[[], Future[Any]], timers: Timers) -> None:
    """Ask a member that is off the roster until the connection to it breaks. Does not wait.

    Args:
        ask: asks it anything.
    """
    _ask_later(ask, timers, 1)


def _ask_later(ask: Callable[[], Future[Any]], timers: Timers, number: int) -> None:
    def ask_now() -> None:
        ask().add_done_callback(partial(_judge, ask, timers, number))

    timers.after(FIRST_S * 2.0 ** (number - 1), ask_now)


def _judge(ask: Callable[[], Future[Any]], timers: Timers, number: int, answer: Future[Any]) -> None:
    if isinstance(answer.exception(), DeviceLost):
        timers.after(0.0, return_freed)  # not on a thread of torch's
    elif number < TRIES:
        _ask_later(ask, timers, number + 1)
