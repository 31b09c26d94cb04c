"""Where a gate listens for other hosts, and under which addresses they find it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from contextlib import ExitStack

import psutil

from shardnet.errors import UsageError
from shardnet.foreign.quoting import quoted
from shardnet.trust.addresses import Address, address_of

BACKLOG = 128


def listen(endpoints: Sequence[str]) -> list[socket.socket]:
    """Listen at addresses of this host, "HOST:PORT", where 0.0.0.0 or [::] means all of them and port 0 any.

    Raises:
        UsageError: one is none, is not one of this host, or its port is taken.
    """
    with ExitStack() as ends:
        listeners = [ends.enter_context(_listen_at(endpoint)) for endpoint in endpoints]
        ends.pop_all()
    return listeners


def addresses_of(listeners: Sequence[socket.socket]) -> tuple[Address, ...]:
    """Where other hosts can dial them."""
    found: list[Address] = []
    for listener in listeners:
        host, port = listener.getsockname()[:2]
        is_any = ipaddress.ip_address(host).is_unspecified
        hosts = _own_addresses(listener.family) if is_any else [host]
        found += [address for each in hosts if (address := address_of(each, port)) is not None]
    return tuple(dict.fromkeys(found))


def _listen_at(endpoint: str) -> socket.socket:
    host, _, port = endpoint.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or not port.isdecimal() or len(port) > 5 or int(port) >= 2**16:
        raise UsageError(f'--listen takes "HOST:PORT", such as 0.0.0.0:29500, but is {quoted(endpoint)}.')
    try:
        family, _, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"Cannot listen on {quoted(endpoint)}: {error}. Choose an address of this host.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise UsageError(f"Cannot listen on {endpoint}: {reason}. Choose another port, or 0 for any.") from error
    return listener


def _own_addresses(family: int) -> list[str]:
    """Of this host's interfaces that are up; the loopback only where there is nothing else."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    interfaces = [addresses for name, addresses in psutil.net_if_addrs().items() if name in up]
    found = [each.address for addresses in interfaces for each in addresses if each.family == family]
    beyond = [each for each in found if not ipaddress.ip_address(each.partition("%")[0]).is_loopback]
    return beyond or found
