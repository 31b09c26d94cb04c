"""How a machine becomes part of a cluster on another one: it is taken in once, and linked whenever it joins."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shardnet.coordinator import own_gate
from shardnet.coordinator.kept_gate import KeptGate
from shardnet.errors import BadRequest, JoinFailed, NameTaken, UsageError
from shardnet.foreign.quoting import shortened
from shardnet.launch.values import machine_name
from shardnet.process.aside import done_aside
from shardnet.process.lasting import as_option, how_to_start, is_running
from shardnet.process.state_folder import StateFolder

if TYPE_CHECKING:
    from shardnet.trust.addresses import Address
    from shardnet.trust.identity import Identity


class Way(NamedTuple):
    """How a machine comes in."""

    name: str | None
    """Under which; None for the machine's own, and a number behind it where that is taken."""
    code: str | None
    """A short one, or the text of a QR code; None where it has joined before."""
    address: str | None
    """Of the other machine, for a short code; None where the local network says it."""
    listen: str | None
    """Where other machines dial this one; None for nowhere."""
    is_source_only: bool = False
    """Whether it brings no device."""


@contextmanager
def be_linked(folder: Path, way: Way) -> Iterator[str]:
    """Have the cluster that was joined by a code, now or before, within reach in a folder while the block lasts. Gives
    the name that this machine has there.

    Raises:
        BadRequest, UsageError: the code or the address is none, or the folder is of another cluster.
        JoinFailed: nobody answers, or who answers refuses.
    """
    name = done_aside(partial(_taken_in, folder, way))  # what certificates take would stay as long as the device
    if way.name is not None and way.name != name:
        raise BadRequest(
            f"This machine has joined as {name}. Leave --name out, or remove {shortened(str(folder))} first."
        )
    listen = [] if way.listen is None else ["--listen", way.listen]
    with KeptGate(partial(own_gate.start, folder, listen, ends_with_this=True)):
        yield name


def _taken_in(folder: Path, way: Way) -> str:
    """The name under which this machine is a member; it is made one where it has a code."""
    from shardnet.trust.certificates import covers
    from shardnet.trust.identity_files import identity_in

    if is_running(folder):
        raise UsageError(
            f"A cluster runs in {shortened(str(folder))} already. Leave the code out to join it, or name another "
            "folder with --cluster DIR."
        )
    identity = identity_in(folder) if folder.is_dir() else None
    if identity is not None and way.code is not None and not covers(identity.certificate, time.time()):
        identity = None  # its certificate has expired while it was away
    if identity is not None and way.code is not None:
        raise UsageError(
            f"This machine has joined a cluster before, as {identity.name}. Leave the code out to join it again, or "
            "name another folder with --cluster DIR."
        )
    if identity is not None:
        _dial_also(identity, way.address)
        return identity.name
    if way.code is None:
        raise JoinFailed(
            f"No cluster runs in {shortened(str(folder))}. Start one: {how_to_start(folder)}; or join one on another "
            f"machine: shardnet join CODE{as_option(folder)}"
        )
    return _enrolled(folder, way, way.code)


def _dial_also(identity: Identity, address: str | None) -> None:
    """The coordinator is reached at another address now: dial there first, from now on."""
    from shardnet.trust.addresses import parse_address
    from shardnet.trust.identity import keep_gates

    if address is None:
        return
    now = parse_address(address)
    state = StateFolder(identity.folder)
    try:
        keep_gates(state, (now, *(gate for gate in identity.gates if gate != now)))
    finally:
        state.close()


def _enrolled(folder: Path, way: Way, code: str) -> str:
    from shardnet.gate.asking import enrol
    from shardnet.gate.own_addresses import is_own
    from shardnet.trust.addresses import parse_address
    from shardnet.trust.codes import Code, parse_code
    from shardnet.trust.names import require_name
    from shardnet.trust.payload import Payload, is_payload, parse_payload

    invitation: Code | Payload
    gates: Sequence[Address] = () if way.address is None else (parse_address(way.address),)
    if is_payload(code):
        invitation = parse_payload(code)
        gates = (*gates, *invitation.addresses)
    else:
        invitation = parse_code(code)
        gates = gates or _found(invitation.slot)
    if not way.is_source_only and all(is_own(gate.host) for gate in gates):
        raise UsageError(
            f"The cluster at {gates[0]} is on this machine, where a device joins it without a code: shardnet join "
            "--cluster DIR, with the state folder of shardnet up."
        )
    for name in _names(way.name):
        require_name(name)
        try:
            return enrol(folder, invitation, name, gates).name
        except NameTaken:
            if way.name is not None:
                raise
    raise AssertionError("there is always another name")


def _found(slot: int) -> Sequence[Address]:
    """Where the cluster can be dialled whose code is in that slot, as the local network says.

    Raises:
        JoinFailed: it is not found, or there are several.
    """
    from shardnet.discovery.asking import look
    from shardnet.discovery.choosing import gates_of_the_only, with_slot
    from shardnet.gate.own_addresses import own_addresses

    heard = look(own_addresses(socket.AF_INET), lambda heard: bool(with_slot(heard, slot)))
    return gates_of_the_only(heard, slot)


def _names(name: str | None) -> Iterator[str]:
    base = name or machine_name()
    yield base
    if name is None:
        yield from (f"{base}.{number}" for number in count(2))
