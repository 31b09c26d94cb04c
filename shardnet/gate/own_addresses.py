"""Under which addresses other hosts find this one: those of its networks, and not those that it has for itself."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import psutil

_FOR_ITSELF = re.compile(r"(docker|veth|virbr|vnet|lxc|lxd|cni|flannel|cali|podman|vmnet|vboxnet)\w*|br-[0-9a-f]{12}")
"""Interfaces that programs make for the containers and machines within this one."""
_TUNNEL = re.compile(r"(tun|tap|wg|ppp|utun|ipsec|tailscale|zt)\w*")
"""Interfaces of private networks, in which a device on the same Wi-Fi need not be."""
_PORT = 9
_ELSEWHERE = {socket.AF_INET: ("192.0.2.1", _PORT), socket.AF_INET6: ("2001:db8::1", _PORT)}
"""Addresses that nobody has. Nothing is sent to them."""


class Own(NamedTuple):
    """An address of this host."""

    interface: str
    address: str


def own_addresses(family: int) -> list[str]:
    """Of this host's interfaces that are up, as `in_order` has them."""
    default = of_default_route(family)
    return in_order(_of_interfaces(family), default) or ([] if default is None else [default])


def beyond_loopback() -> list[Own]:
    """All addresses of this host that may be one end of a connection with another. Those that mean something on one
    interface only have its name behind them (`fe80::1%wlan0`)."""
    found: list[Own] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        default = of_default_route(family)
        found += _of_interfaces(family) or ([] if default is None else [Own("", default)])
    return [each for each in found if _rank(each, None) < _Rank.LOOPBACK]


def is_in_network(own: Own) -> bool:
    """Whether an address is in a network of others, and not within this host."""
    return _rank(own, None) < _Rank.FOR_ITSELF


def _of_interfaces(family: int) -> list[Own]:
    try:
        up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
        by_name = psutil.net_if_addrs()
    except OSError:  # Android lets no program list them
        return []
    return [
        Own(name, each.address)
        for name, addresses in by_name.items()
        for each in addresses
        if name in up and each.family == family
    ]


def is_own(host: str) -> bool:
    """Whether an address, as somebody types it, is this host's."""
    if host == "localhost":
        return True
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return False
    own = {of_default_route(socket.AF_INET)}
    with suppress(OSError):  # Android lets no program list them
        own |= {each.address.partition("%")[0] for addresses in psutil.net_if_addrs().values() for each in addresses}
    return number.is_loopback or str(number) in own


def in_order(found: Sequence[Own], default: str | None) -> list[str]:
    """Those that are best of all: of networks, first the one of the default route, which a device on the same Wi-Fi
    reaches; where there are none, those without a router or within this host; then the loopback.

    Args:
        default: the address from which this host speaks to all the world.
    """
    ranked = sorted((_rank(each, default), number, each.address) for number, each in enumerate(found))
    for worst in (_Rank.PRIVATE, _Rank.FOR_ITSELF):
        best = [address for rank, _, address in ranked if rank <= worst]
        if best:
            return best
    return [address for _, _, address in ranked]


class _Rank:
    DEFAULT, NETWORK, PRIVATE, FOR_ITSELF, LOOPBACK = range(5)


def _rank(own: Own, default: str | None) -> int:
    number = ipaddress.ip_address(own.address.partition("%")[0])
    if number.is_loopback:
        return _Rank.LOOPBACK
    if number.is_link_local or _FOR_ITSELF.fullmatch(own.interface):
        return _Rank.FOR_ITSELF
    if _TUNNEL.fullmatch(own.interface):
        return _Rank.PRIVATE
    return _Rank.DEFAULT if own.address == default else _Rank.NETWORK


def of_default_route(family: int) -> str | None:
    """The address from which this host speaks to all the world; None where it cannot. Takes no permission."""
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:  # there is no such route
        probe.connect(_ELSEWHERE[socket.AddressFamily(family)])
        return str(probe.getsockname()[0])
    return None
