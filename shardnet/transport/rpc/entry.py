"""What another process can make this one run: what serves the kinds of requests of `wire`, and nothing else.

These functions catch everything, and answer with a `Failure` instead of raising, as torch would tell a stranger where
our files lie. `objects.py` adds those for objects.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import torch

from shardnet.transport.failure import Failure, answers_later, evicted, unknown_endpoint
from shardnet.transport.rpc.presence import attempt, here, own_name
from shardnet.transport.rpc.replies import Reply, posted_reply, reply_later, reply_with
from shardnet.transport.wire.frames import Call, Post

NOBODY = -1
"""Stands for an agent that is not known."""


class Refused(NamedTuple):
    """What arrived instead of a request or an answer."""

    kind: type | None
    """What it said that it was."""
    reason: str


def serve(arrived: Any) -> Any:
    """Answer what has arrived. Never raises, whatever it is."""
    serve_kind = SERVES.get(type(arrived))
    if serve_kind is not None:
        return serve_kind(*arrived)
    kind, reason = arrived if type(arrived) is Refused else (None, "this is no request")
    refusal = Failure("ClusterError", f"{own_name()} refused a message: {reason}.", own_name())
    return (reply_later if kind in ANSWERED_LATER else reply_with)(refusal, "", NOBODY)


def run_handler(sender: int, endpoint: str, args: tuple[Any, ...]) -> Any:
    """Let an endpoint of this device answer another's request, or one of its own."""
    transport = here()
    if sender in transport.gone:
        raise evicted(transport.name)
    handler = transport.handlers.get(endpoint)
    if handler is not None:
        return handler(*args)
    own = transport.own_endpoints.get(endpoint)
    if own is None:
        raise unknown_endpoint(transport.name, endpoint)
    return own(sender, *args)


def run_prompt_handler(sender: int, endpoint: str, args: tuple[Any, ...]) -> Any:
    """The same for `post`: the answer must be there."""
    answer = run_handler(sender, endpoint, args)
    if isinstance(answer, Future):
        raise answers_later(endpoint)
    return answer


def _serve_post(sender: int, endpoint: str, args: tuple[Any, ...]) -> Reply:
    return posted_reply(attempt(endpoint, run_prompt_handler, sender, endpoint, args), endpoint)


def _serve_call(sender: int, endpoint: str, args: tuple[Any, ...]) -> torch.futures.Future[Any]:
    return reply_later(attempt(endpoint, run_handler, sender, endpoint, args), endpoint, sender)


SERVES: dict[type, Callable[..., Any]] = {Post: _serve_post, Call: _serve_call}
"""What serves each kind of request."""
ANSWERED_LATER: set[type | None] = {Call}
"""The kinds that are answered through a future of torch."""
