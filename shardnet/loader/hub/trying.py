"""Asking the hub, which may be busy for a moment: again where that is short, and else what it means, in a sentence."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from shardnet.loader.hub.names import HubName
from shardnet.loader.hub.refusals import refusal_of, status_of, wait_asked_s

Answer = TypeVar("Answer")

NUM_TRIES = 3
LONGEST_WAIT_S = 60
"""For what asks to wait for longer, a sentence says so, and the user decides."""
FIRST_WAIT_S = 1.0


def trying(name: HubName, ask: Callable[[], Answer]) -> Answer:
    """The answer of the hub.

    Raises:
        ModelNotFound: see `refusals`.
    """
    for nth in range(1, NUM_TRIES + 1):
        try:
            return ask()
        except errors_of_the_hub() as cause:
            wait_s = _wait_s(cause, nth)
            if nth == NUM_TRIES or wait_s is None:
                raise refusal_of(cause, name) from cause
        time.sleep(wait_s)
    raise AssertionError("the last try returns or raises")


def errors_of_the_hub() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises for a fault of the network, of the hub or of the disk."""
    from huggingface_hub import errors

    # Of httpx or of its successor, by the version of huggingface_hub: the errors of connections have that base.
    of_connections = errors.__dict__["HTTPError"]
    return (OSError, ValueError, errors.EntryNotFoundError, of_connections)


def _wait_s(cause: Exception, nth: int) -> float | None:
    """How long to wait before another try; None where that is of no use."""
    status = status_of(cause)
    if status == 429:
        asked = wait_asked_s(cause)
        return None if asked is None or asked > LONGEST_WAIT_S else float(asked)
    return FIRST_WAIT_S * 2 ** (nth - 1) if status is not None and status >= 500 else None
