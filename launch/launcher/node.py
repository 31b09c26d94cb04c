"""One node of a run: opens the door and runs the script, or brings devices to the door of the node that does."""

from __future__ import annotations

import errno
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from shardnet.cluster.launched import MeetingPoint
from shardnet.errors import BadRequest, JoinFailed, ShardnetError, UsageError
from shardnet.foreign.quoting import counted
from shardnet.launch.launcher.asked import Asked
from shardnet.launch.launcher.attempts import run_script
from shardnet.launch.launcher.devices import KEEP_S, guest_names, own_names, send_home, started, wait_for_end
from shardnet.launch.launcher.environment import Place
from shardnet.launch.launcher.hosts import is_between_hosts, names_of, open_to_hosts, reach
from shardnet.launch.launcher.log_files import run_folder
from shardnet.launch.launcher.meeting import Address, Meeting
from shardnet.launch.launcher.programs import require_script
from shardnet.process.lasting import endpoint_in
from shardnet.process.signals import ENDING, handled_by
from shardnet.process.standard_streams import say

if TYPE_CHECKING:
    from shardnet.transport.door.door import Door

LOOK_EVERY_S = 0.1
SILENT_S = 2.0
"""A wait that is longer is said."""
DEVICES = "devices"


def run(asked: Asked, environment: Mapping[str, str]) -> int:
    """Be a node; returns its exit code.

    Raises:
        ShardnetError: what was asked cannot be done.
    """
    between_hosts = is_between_hosts(asked.meeting)
    if asked.meeting.invite is not None and not between_hosts:
        raise BadRequest(
            "invite=CODE in --rdzv-conf is for a node of another host, and --rdzv-endpoint is on the loopback of this "
            "one. Leave it out."
        )
    with _signals_raised(asked.signals):
        is_first = _is_first(asked)
        if is_first or asked.on_every_node:
            require_script(asked)
        try:
            if is_first:
                return _first(asked, environment, between_hosts=between_hosts)
        except DoorTaken:  # a moment ago, by another node
            pass
        return _further(asked, environment, between_hosts=between_hosts)


def _is_first(asked: Asked) -> bool:
    """Whether this node opens the door. Where nothing says it, who finds the address free does."""
    meeting = asked.meeting
    if meeting.is_host is not None or meeting.door is None:
        return meeting.is_host is not False
    family, _, _, _, address = socket.getaddrinfo(meeting.door.host, meeting.door.port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:  # another host's
                return False
            if error.errno != errno.EADDRINUSE:
                raise BadRequest(f"Cannot listen on {meeting.door.endpoint}: {error.strerror}.") from error
            return False
    return True


def _first(asked: Asked, environment: Mapping[str, str], *, between_hosts: bool) -> int:
    """Open the door, start devices, and run the script."""
    meeting = asked.meeting
    names = own_names(asked.num_devices)
    with ExitStack() as resources:
        folder = resources.enter_context(run_folder(asked.logs, meeting.run_id))
        door = resources.enter_context(open_to_hosts(meeting) if between_hosts else open_door(meeting))
        resources.enter_context(started(asked, door.endpoint, names, folder / DEVICES))
        if meeting.max_nodes > 1:
            resources.callback(_let_go, door.endpoint)
        num_devices = asked.num_devices * meeting.min_nodes
        if meeting.min_nodes > 1:
            _wait_for_devices(door, num_devices, meeting.join_s)
        told = MeetingPoint(door.endpoint, num_devices).variables()
        return run_script(asked, _place(asked), folder, {**environment, **told})


def _further(asked: Asked, environment: Mapping[str, str], *, between_hosts: bool) -> int:
    """Start devices that serve another node's script until that one is over, or beside a script of this node's own."""
    meeting = asked.meeting
    assert meeting.door is not None, "several nodes have an address"
    _wait_for_door(meeting.door, meeting.join_s)
    way = _within_reach(asked, between_hosts=between_hosts)
    with way as (endpoint, names), run_folder(asked.logs, meeting.run_id) as folder:
        with started(asked, endpoint, names, folder / DEVICES, KEEP_S) as workers:
            if not asked.on_every_node:
                return wait_for_end(workers)
            return run_script(asked, _place(asked), folder, environment)


@contextmanager
def _within_reach(asked: Asked, *, between_hosts: bool) -> Iterator[tuple[str, list[str]]]:
    """While the block runs, node 0's door is at that endpoint; and what this node's devices are called there."""
    meeting = asked.meeting
    assert meeting.door is not None, "several nodes have an address"
    if between_hosts:
        with reach(meeting) as (folder, name):
            yield endpoint_in(folder), names_of(name, asked.num_devices)
    else:
        yield meeting.door.endpoint, guest_names(meeting.rank, asked.num_devices)


def _place(asked: Asked) -> Place:
    """Of this node's scripts. Where there are several nodes, each has as many as this one, as with torchrun."""
    if not asked.on_every_node:
        return Place()
    meeting = asked.meeting
    node = meeting.rank or 0
    return Place(
        node=node,
        num_nodes=meeting.max_nodes,
        first_rank=node * asked.num_scripts,
        world_size=meeting.max_nodes * asked.num_scripts,
        master=_master(meeting),
    )


def _master(meeting: Meeting) -> Address:
    """What all nodes come to without asking each other: the port after the door's; of one node, any that is free."""
    if meeting.max_nodes == 1 or meeting.door is None:
        return Address(meeting.local_addr, _free_port(meeting.local_addr))
    return Address(meeting.door.host, meeting.door.port + 1)


def _free_port(host: str) -> int:
    """A port that nobody listens at just now.

    Raises:
        BadRequest: the host is no address of this machine.
    """
    try:
        with socket.create_server((host, 0)) as trial:
            port: int = trial.getsockname()[1]
            return port
    except OSError as error:
        raise BadRequest(f"--local-addr {host} is no address of this machine: {error}. Leave it out.") from error


class DoorTaken(Exception):
    """Another node has opened the door, where that was left to who comes first."""


def open_door(meeting: Meeting) -> Door:
    """Where the devices meet: at an address that was asked for, or where only this user can.

    Raises:
        DoorTaken
        UsageError: the address cannot be used.
    """
    from shardnet.transport.door.door import serve_door

    if meeting.door is None:
        return serve_door()
    try:
        return serve_door(*meeting.door)
    except UsageError as error:
        is_taken = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
        if is_taken and meeting.is_host is None:
            raise DoorTaken from error
        raise


def _let_go(endpoint: str) -> None:
    """Send the devices of other nodes home. Who does not hear it looks for the door for a while."""
    try:
        send_home(endpoint)
    except ShardnetError as error:
        say(f"shardnet-run: other nodes were not told that it is over: {error}")


def _wait_for_devices(door: Door, num_devices: int, join_s: float) -> None:
    """
    Raises:
        JoinFailed: fewer have come in time.
    """
    began_s = time.monotonic()
    is_said = False
    while (present := len(door.members)) < num_devices:
        waited_s = time.monotonic() - began_s
        if waited_s > join_s:
            raise JoinFailed(
                f"{counted(num_devices, 'devices')} should come, but after {join_s:g} s there are only {present}. "
                "Start the other nodes, by the same command on each."
            )
        if waited_s > SILENT_S and not is_said:
            is_said = True
            say(f"shardnet-run: waiting for other nodes: {present} of {counted(num_devices, 'devices')} are there.")
        time.sleep(LOOK_EVERY_S)


def _wait_for_door(door: Address, join_s: float) -> None:
    """
    Raises:
        JoinFailed: nobody opens it in time.
    """
    began_s = time.monotonic()
    is_said = False
    while True:
        try:
            socket.create_connection(door, timeout=join_s).close()
            return
        except OSError:
            waited_s = time.monotonic() - began_s
        if waited_s > join_s:
            raise JoinFailed(
                f"No node has opened the door at {door.endpoint} within {join_s:g} s. Start the first one, by the same "
                "command with --node-rank 0."
            )
        if waited_s > SILENT_S and not is_said:
            is_said = True
            say(f"shardnet-run: waiting for the first node, which opens the door at {door.endpoint}.")
        time.sleep(LOOK_EVERY_S)


@contextmanager
def _signals_raised(numbers: tuple[signal.Signals, ...]) -> Iterator[None]:
    """In this block, those that are handled besides the ones that end every command are raised likewise."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with handled_by(leave, [number for number in numbers if number not in ENDING]):
        yield
