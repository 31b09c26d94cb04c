"""Looks at this machine's address, its clock, and whether the other machines of a cluster can be dialled from here.

What follows from what was seen is decided in functions of its own, which are pure.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from shardnet.errors import ShardnetError
from shardnet.foreign.plain_files import is_folder
from shardnet.gate.own_addresses import of_default_route
from shardnet.launch.doctor.finding import Finding
from shardnet.process.lasting import is_running
from shardnet.process.threads import on_thread
from shardnet.source.trust import ask_gate
from shardnet.trust.addresses import Address, parse_address

DIAL_S = 2.0
RELEASED_S = 1764547200.0
"""1 December 2025: shardnet is younger than that, and a clock that says less is wrong."""
SLACK_S = 3600.0
"""What clocks may differ by: see `trust.certificates`."""


class Joined(NamedTuple):
    """What this machine has of a cluster on another one."""

    name: str
    since_s: float
    """When its certificate begins to count, in seconds since 1970."""
    until_s: float


class Reached(NamedTuple):
    """Who of a cluster can be dialled from here."""

    coordinator: bool
    hosts: Mapping[str, bool]
    """Those that can be dialled at all, but for this one."""


def find_address() -> Finding:
    """The address under which other devices would find this one, and its interface."""
    address = of_default_route(socket.AF_INET) or "127.0.0.1"
    interface = _interface_of(address)
    hints: tuple[str, ...] = ()
    if address.startswith("127."):
        hints = ("No network: devices on this machine can work together, others cannot reach it. Switch on the Wi-Fi.",)
    text = f"{address} ({interface or 'unknown interface'})"
    return Finding("address", True, text, {"address": address, "interface": interface}, hints)


def _interface_of(address: str) -> str | None:
    try:
        interfaces = psutil.net_if_addrs()
    except OSError:  # Android forbids it to programs without its permission
        return None
    return next((name for name, each in interfaces.items() if any(one.address == address for one in each)), None)


def find_clock(now_s: float, joined: Joined | None) -> Finding:
    """Certificates count for a time, so that clocks must be right to the hour. Pure."""
    today = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now_s)) + " UTC"
    set_it = "Set the date, the time and the time zone; on a phone: Settings > System > Date and time > automatic."
    if now_s < RELEASED_S or (joined is not None and now_s < joined.since_s - SLACK_S):
        return Finding("clock", False, f"says {today}, which is past", {"now_s": now_s}, (set_it,))
    if joined is not None and now_s >= joined.until_s:
        ended = time.strftime("%Y-%m-%d", time.gmtime(joined.until_s))
        hints = (f"If that is wrong: {set_it}", "If it is right, join with a new code: shardnet join CODE")
        text = f"says {today}, and the certificate of {joined.name} has expired on {ended}"
        return Finding("clock", False, text, {"now_s": now_s}, hints)
    return Finding("clock", True, today, {"now_s": now_s})


def find_neighbours(reached: Reached | None) -> Finding:
    """Whether the network lets devices speak to each other. Pure.

    Args:
        reached: None where this machine is linked with no cluster on another one.
    """
    if reached is None:
        text = "not tried: that takes a cluster that runs, and shardnet join on this machine and others"
        return Finding("neighbours", True, text)
    data = {"coordinator": reached.coordinator, **reached.hosts}
    apart = [name for name, is_reached in reached.hosts.items() if not is_reached]
    if not apart:
        who = ", ".join(reached.hosts) or "nobody else is there"
        return Finding("neighbours", True, f"can be dialled: {who}", data)
    text = f"cannot be dialled: {', '.join(apart)}"
    hints = ["What this machine and they say goes through the coordinator's, which works, and takes twice the time."]
    if reached.coordinator:
        hints.append(
            "The coordinator can be dialled: if all are in one Wi-Fi, it keeps devices apart. Leave the guest network, "
            "or switch off client isolation (AP isolation) in the access point."
        )
    return Finding("neighbours", True, text, data, tuple(hints))


def read_joined(folder: Path) -> Joined | None:
    """What `shardnet join` has written down in a state folder."""
    from shardnet.trust.identity_files import identity_in

    try:
        identity = identity_in(folder) if is_folder(folder) else None
    except ShardnetError:
        return None
    if identity is None:
        return None
    certificate = identity.certificate
    began, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Joined(identity.name, began.timestamp(), ends.timestamp())


def dial_neighbours(folder: Path) -> Reached | None:
    """Try to connect to each, and hang up. Takes seconds where they do not answer."""
    from shardnet.trust.identity_files import identity_in

    try:
        identity = identity_in(folder) if is_folder(folder) else None
        if identity is None or not is_running(folder):
            return None
        trusted = ask_gate(folder, "trusted")
    except ShardnetError:
        return None
    others = {each["name"]: each["addresses"] for each in trusted if each["name"] != identity.name}
    hosts = {name: [parse_address(each) for each in found] for name, found in others.items() if found}
    return dial(identity.gates, hosts)


def dial(coordinator: Sequence[Address], hosts: Mapping[str, Sequence[Address]]) -> Reached:
    """All at the same time."""
    asked = {name: on_thread("shardnet-dial", partial(_answers, found)) for name, found in hosts.items()}
    is_reached = _answers(coordinator)
    return Reached(is_reached, {name: each.result() for name, each in asked.items()})


def _answers(addresses: Sequence[Address]) -> bool:
    for address in addresses:
        with suppress(OSError):
            socket.create_connection(address, DIAL_S).close()
            return True
    return False
