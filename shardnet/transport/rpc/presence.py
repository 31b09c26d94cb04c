"""The transport of this process, which what arrives is for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardnet.errors import ClusterError
from shardnet.transport.failure import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardnet.transport.rpc.transport import RpcTransport

_here: list[RpcTransport] = []
"""The transport of this process, if it has one: where its handlers and objects are found."""


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


def own_name() -> str:
    """What errors call this device."""
    return _here[0].name if _here else "The device"


def attempt(endpoint: str, function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns, or a `Failure` that says what it raised."""
    try:
        return function(*args)
    except BaseException as error:  # no one above this thread could do anything about it
        return encode(error, own_name(), endpoint)
