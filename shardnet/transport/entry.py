"""What another process can make this one run: `serve_post` and `serve_call` here, and three functions of `objects.py`.

They look up what they need in this process's transport, catch everything, and answer with a `Failure` instead of
raising, as torch would print a traceback.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed import rpc

from shardnet.errors import ClusterError
from shardnet.transport import wire
from shardnet.transport.failure import answers_later, encode, evicted, unknown_endpoint
from shardnet.transport.outcomes import outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardnet.transport.rpc import RpcTransport

_here: list[RpcTransport] = []
"""The transport of this process, if it has one: where the functions below find its handlers and objects."""


def enter(transport: RpcTransport) -> None:
    """Serve what arrives through this transport."""
    _here[:] = [transport]


def leave(transport: RpcTransport) -> None:
    """Serve nothing more."""
    if transport in _here:
        _here.clear()


def check_birthplace() -> None:
    """A forked child has a copy of its parent's transport, and of torch's agent, which admits no second.

    Raises:
        UsageError: this is such a child.
    """
    for transport in _here:
        transport.birthplace.check()


def here() -> RpcTransport:
    """The transport of this process.

    Raises:
        ClusterError: it has left its cluster.
    """
    try:
        return _here[0]
    except IndexError:
        raise ClusterError("The device has just left the cluster.") from None


def attempt(endpoint: str, function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns, or a `Failure` that says what it raised."""
    try:
        return function(*args)
    except BaseException as error:  # no one above this thread could do anything about it
        return encode(error, _here[0].name if _here else "The device", endpoint)


def run_handler(sender: int, endpoint: str, args: tuple[Any, ...]) -> Any:
    """Let an endpoint of this device answer another's request, or one of its own."""
    transport = here()
    if sender in transport.gone:
        raise evicted(transport.name)
    handler = transport.handlers.get(endpoint)
    if handler is None:
        raise unknown_endpoint(transport.name, endpoint)
    return handler(*args)


def run_prompt_handler(sender: int, endpoint: str, args: tuple[Any, ...]) -> Any:
    """The same for `post`: the answer must be there."""
    answer = run_handler(sender, endpoint, args)
    if isinstance(answer, Future):
        raise answers_later(endpoint)
    return answer


def serve_post(sender: int, endpoint: str, args: tuple[Any, ...]) -> Any:
    """Answer `Transport.post` of another device."""
    return attempt(endpoint, run_prompt_handler, sender, endpoint, args)


@rpc.functions.async_execution
def serve_call(sender: int, endpoint: str, args: tuple[Any, ...]) -> torch.futures.Future[Any]:
    """Answer `Transport.call` of another device, now or when the handler's future is done."""
    return reply_with(attempt(endpoint, run_handler, sender, endpoint, args), endpoint)


def reply_with(outcome: Any, endpoint: str) -> torch.futures.Future[Any]:
    """The future through which torch sends an answer. No thread waits for it."""
    reply: torch.futures.Future[Any] = torch.futures.Future()
    if isinstance(outcome, Future):
        device = _here[0].name if _here else "The device"

        def send_reply(done: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the agent is gone, and with it whoever asked
                reply.set_result(outcome_of(done, device, endpoint))

        outcome.add_done_callback(send_reply)
    else:
        reply.set_result(outcome)
    return reply


wire.allow([serve_post, serve_call])
