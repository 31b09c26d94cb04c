"""Where a gate listens for other hosts, and under which addresses they find it."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from contextlib import ExitStack

from shardnet.errors import UsageError
from shardnet.foreign.quoting import quoted
from shardnet.gate.own_addresses import own_addresses
from shardnet.trust.addresses import Address, address_of

BACKLOG = 128
MOST_TRIED = 100
"""Ports, where the next one does, too."""


def listen(endpoints: Sequence[str], *, or_next: bool = False) -> list[socket.socket]:
    """Listen at addresses of this host, "HOST:PORT", where 0.0.0.0 or [::] means all of them and port 0 any.

    Args:
        or_next: where a port is taken, the next one that is free does as well.

    Raises:
        UsageError: one is none, is not one of this host, or its port is taken.
    """
    with ExitStack() as ends:
        listeners = [ends.enter_context(_listen_at(endpoint, or_next)) for endpoint in endpoints]
        ends.pop_all()
    return listeners


def addresses_of(listeners: Sequence[socket.socket]) -> tuple[Address, ...]:
    """Where other hosts can dial them."""
    found: list[Address] = []
    for listener in listeners:
        host, port = listener.getsockname()[:2]
        is_any = ipaddress.ip_address(host).is_unspecified
        hosts = own_addresses(listener.family) if is_any else [host]
        found += [address for each in hosts if (address := address_of(each, port)) is not None]
    return tuple(dict.fromkeys(found))


def _listen_at(endpoint: str, or_next: bool) -> socket.socket:
    host, _, port = endpoint.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or not port.isdecimal() or len(port) > 5 or int(port) >= 2**16:
        raise UsageError(f'--listen takes "HOST:PORT", such as 0.0.0.0:29500, but is {quoted(endpoint)}.')
    last = min(int(port) + MOST_TRIED, 2**16) if or_next else int(port) + 1
    for each in range(int(port), last):
        try:
            return _listener(host, each)
        except OSError as error:
            reason = error
            if error.errno != errno.EADDRINUSE:
                break
    if or_next and reason.errno == errno.EADDRINUSE:
        raise UsageError(f"All ports of {host} from {port} to {last - 1} are taken. Choose another one with --listen.")
    raise UsageError(
        f"Cannot listen on {quoted(endpoint)}: {reason.strerror or reason}. Choose another port, or 0 for any, at an "
        "address of this host."
    ) from reason


def _listener(host: str, port: int) -> socket.socket:
    """
    Raises:
        OSError: the host is none of this one's addresses, or its port is taken.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
