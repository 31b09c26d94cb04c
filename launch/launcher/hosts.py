"""Nodes on several hosts: node 0's gate lets in who has a code, and each further node has a gate of its own.

What hosts say to each other goes through TLS, as in a cluster of `shardnet up`; the certificates lie in a state folder
for the run, so that a node that comes again needs no code.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardnet.errors import BadRequest
from shardnet.launch.hosts.inviting import Inviting
from shardnet.launch.hosts.linking import Way, be_linked
from shardnet.launch.launcher.meeting import Meeting
from shardnet.process.lasting import default_folder
from shardnet.process.standard_streams import say

if TYPE_CHECKING:
    from shardnet.transport.door.door import Door

ANY_PORT = "0.0.0.0:0"
"""Where a further node is dialled."""


def is_between_hosts(meeting: Meeting) -> bool:
    """Whether other hosts come to the door: it is not on the loopback.

    Raises:
        BadRequest: its host is not known here.
    """
    if meeting.door is None or meeting.max_nodes == 1:
        return False
    host, port = meeting.door
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise BadRequest(f"{host} is no host that is known here: {error}. Say its address in numbers.") from error
    return not all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found)


@contextmanager
def open_to_hosts(meeting: Meeting) -> Iterator[Door]:
    """The door of node 0, at which other hosts come in through its gate. What to type there is said.

    Raises:
        UsageError: another run of that id is open here, or the gate cannot listen there.
    """
    from shardnet.coordinator import own_gate
    from shardnet.transport.door.door import serve_door

    assert meeting.door is not None, "several hosts have an address"
    folder = _folder(f"run-{meeting.run_id}-{meeting.door.port}")
    with serve_door(folder=folder, is_anew=True) as door:  # members of an earlier run are none of this one
        with own_gate.start(folder, ["--hub", "--listen", meeting.door.endpoint], ends_with_this=True):
            inviting = Inviting(folder, partial(_show, meeting))
            try:
                _show(meeting, inviting.begin())
                yield door
            finally:
                inviting.close()


@contextmanager
def reach(meeting: Meeting) -> Iterator[tuple[Path, str]]:
    """The state folder in which node 0's door is within reach, and the name of this node.

    Raises:
        JoinFailed: nobody answers, or who answers refuses.
        UsageError: this node has no code, and was never let in; or the code is none.
    """
    from shardnet.trust.identity_files import identity_in

    assert meeting.door is not None, "several hosts have an address"
    where = re.sub(r"[^A-Za-z0-9.]+", "-", meeting.door.host)
    folder = _folder(f"run-{meeting.run_id}-{meeting.door.port}-at-{where}")
    knows = folder.is_dir() and identity_in(folder) is not None
    if not knows and meeting.invite is None:
        raise BadRequest(
            f"This node was not let in at {meeting.door.endpoint} yet: add --rdzv-conf invite=CODE, with the code that "
            "node 0 shows."
        )
    way = Way(None, None if knows else meeting.invite, meeting.door.endpoint, ANY_PORT)
    with be_linked(folder, way) as name:
        yield folder, name


def names_of(host: str, num_devices: int) -> list[str]:
    """Of a further node's devices: the first is called as its host, the others have a number behind that."""
    return [host, *(f"{host}:{number}" for number in range(1, num_devices))]


def _folder(name: str) -> Path:
    return default_folder().parent / name


def _show(meeting: Meeting, invitation: dict[str, Any]) -> None:
    assert meeting.door is not None
    address = next(iter(invitation["addresses"]), meeting.door.endpoint)
    nodes = str(meeting.max_nodes)
    if meeting.min_nodes != meeting.max_nodes:
        nodes = f"{meeting.min_nodes}:{nodes}"
    run = "" if meeting.run_id == "none" else f" --rdzv-id {meeting.run_id}"
    code = invitation["code"] or invitation["qr"]
    say(
        f"shardnet-run: on another host: shardnet-run --nnodes {nodes}{run} --rdzv-endpoint {address} "
        f"--rdzv-conf is_host=false,invite={code} SCRIPT"
    )
