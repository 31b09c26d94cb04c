"""What gates tell each other of hosts, lines of JSON: each where it can be dialled, and the coordinator's what it knows
of all, where it can be dialled itself, and which certificates do not count any more. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shardnet.errors import UsageError
from shardnet.trust.addresses import Address, parse_address
from shardnet.trust.names import is_name

MOST_LINE_BYTES = 2**20
MOST_ADDRESSES = 16


class Hosts(NamedTuple):
    """Those of a cluster, but for the coordinator's."""

    addresses: Mapping[str, tuple[Address, ...]]
    """Where each can be dialled; none where it cannot."""
    revoked: frozenset[int] = frozenset()
    """The serial numbers of certificates."""
    gates: tuple[Address, ...] = ()
    """Where the coordinator's can be dialled."""


def pack_addresses(addresses: Sequence[Address]) -> bytes:
    """Where this host can be dialled."""
    return json.dumps([str(each) for each in addresses[:MOST_ADDRESSES]]).encode() + b"\n"


def unpack_addresses(line: bytes) -> tuple[Address, ...]:
    """
    Raises:
        ValueError: it is no such line.
    """
    return _addresses(_read(line))


def pack_hosts(hosts: Hosts) -> bytes:
    """All that is known."""
    addresses = {name: [str(each) for each in found] for name, found in hosts.addresses.items()}
    revoked = [f"{serial:x}" for serial in sorted(hosts.revoked)]
    gates = [str(each) for each in hosts.gates[:MOST_ADDRESSES]]
    return json.dumps({"addresses": addresses, "revoked": revoked, "gates": gates}).encode() + b"\n"


def unpack_hosts(line: bytes) -> Hosts:
    """
    Raises:
        ValueError: it is no such line.
    """
    content = _read(line)
    if not isinstance(content, dict) or not isinstance(content.get("addresses"), dict):
        raise ValueError("no hosts")
    addresses = {name: _addresses(found) for name, found in content["addresses"].items() if is_name(name)}
    revoked = content.get("revoked")
    if not isinstance(revoked, list) or not all(isinstance(each, str) for each in revoked):
        raise ValueError("no serial numbers")
    return Hosts(addresses, frozenset(int(each, 16) for each in revoked), _addresses(content.get("gates")))


def _read(line: bytes) -> Any:
    try:
        return json.loads(line)
    except RecursionError as cause:
        raise ValueError("nested too deep") from cause


def _addresses(content: Any) -> tuple[Address, ...]:
    if not isinstance(content, list) or not all(isinstance(each, str) for each in content):
        raise ValueError("no addresses")
    try:
        return tuple(parse_address(each) for each in content[:MOST_ADDRESSES])
    except UsageError as cause:
        raise ValueError("no address") from cause
