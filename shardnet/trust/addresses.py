"""Where a gate can be dialled: a host and a port."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from shardnet.errors import UsageError
from shardnet.foreign.quoting import quoted

MOST_HOST = 253
"""Characters of a host's name."""
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


class Address(NamedTuple):
    """Of a gate."""

    host: str
    """An IPv4 or IPv6 address, or a name in lower case."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """The address in "host:port" or "[IPv6]:port".

    Raises:
        UsageError: it is not of that form, or nothing can be dialled there.
    """
    host, _, port = text.rpartition(":")
    in_brackets = host.startswith("[") and host.endswith("]")
    address = address_of(host[1:-1] if in_brackets else host, int(port) if _is_number(port) else 0)
    if address is None or in_brackets != (":" in address.host):
        raise UsageError(f"An address is host:port, such as 192.168.1.5:29400, but this one is {quoted(text)}.")
    return address


def address_of(host: str, port: int) -> Address | None:
    """The address of a host and a port; None where nothing can be dialled there from another host.

    An IPv6 address with a scope (`fe80::1%wlan0`) is none: the scope means something on one host only.
    """
    if not 0 < port < 2**16:
        return None
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return _named(host.lower(), port)
    if number.is_multicast or number.is_unspecified or "%" in host:
        return None
    return Address(str(number), port)


def _named(host: str, port: int) -> Address | None:
    """What looks like a number and is no IPv4 address stands for one to some resolvers ("127.1"): it is no name."""
    last = host.rpartition(".")[2]
    if len(host) > MOST_HOST or _NAME.fullmatch(host) is None or last.isdigit() or last.startswith("0x"):
        return None
    return Address(host, port)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None
