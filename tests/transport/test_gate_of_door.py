"""The door and the gate of its host: who comes from other hosts, and whom the gate is told of."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until

from shardnet.errors import ClusterError, JoinFailed, NameTaken, PortTaken
from shardnet.transport.door.connection import DoorConnection
from shardnet.transport.door.desk import CLASHES, ENTRIES, MOST_GUESTS_OF_HOST
from shardnet.transport.door.door import Door, serve_door
from shardnet.transport.door.membership import Membership
from shardnet.transport.door.messages import (
    AddPort,
    AllTold,
    Carried,
    Carrying,
    Done,
    DropPort,
    News,
    Refused,
    Unreachable,
    pack,
)
from shardnet.transport.door.roster import MOST_OF_HOST


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with serve_door(folder=tmp_path) as opened:
        yield opened


def connected(door: Door) -> socket.socket:
    assert door.folder is not None
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(door.folder.path / "gate"))
    return connection


class FakeGate:
    """Says of every member that it is reached, but for those whose ports are taken."""

    def __init__(self, door: Door, taken: tuple[int, ...] = ()) -> None:
        self.ports: dict[int, tuple[int, str]] = {}
        self._taken = taken
        connection = connected(door)
        connection.sendall(pack(Carrying()))
        connection.settimeout(None)
        self.connection = DoorConnection(connection)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                self._hear(self.connection.read())
        except (OSError, EOFError):
            self.connection.close()

    def _hear(self, told: Any) -> None:
        if type(told) is DropPort:
            self.ports.pop(told.id, None)
        elif type(told) is AllTold:
            return
        elif told.port in self._taken:
            self.connection.say(Refused(told.number, "PortTaken", "taken"))
        else:
            assert type(told) is AddPort
            self.ports[told.id] = told.port, told.host
            self.connection.say(Done(told.number, 0))

    def end(self) -> None:
        self.connection.end("over")
        self._thread.join(10)


class Carrier:
    """Carries the connections of another host to the door, as a gate does."""

    def __init__(self, door: Door, host: str, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.endpoint = f"unix:{folder / 'door'}"
        self._door = door
        self._host = host
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "door"))
        self._listener.listen()
        self._ends: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = connected(self._door)
                far.settimeout(None)
                far.sendall(pack(Carried(self._host)))
                self._ends += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(source, target), daemon=True).start()

    def close(self) -> None:
        for each in self._ends:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(2**16):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    with ExitStack() as ends:
        yield ends


class Cluster:
    """A door, and what is at it."""

    def __init__(self, door: Door, ends: ExitStack, folder: Path) -> None:
        self._door = door
        self._ends = ends
        self._folder = folder
        self._carriers: dict[str, Carrier] = {}

    def gate(self, *taken: int) -> FakeGate:
        gate = FakeGate(self._door, taken)
        self._ends.callback(gate.end)
        return gate

    def carried(self, host: str) -> str:
        """Where the door is for members of another host."""
        if host not in self._carriers:
            self._carriers[host] = Carrier(self._door, host, self._folder / host)
            self._ends.callback(self._carriers[host].close)
        return self._carriers[host].endpoint

    def join(self, name: str, port: int, host: str = "", kind: type[Visitor] | None = None) -> Visitor:
        visitor = (kind or Visitor)(self.carried(host) if host else self._door.endpoint)
        self._ends.callback(visitor.membership.close)
        visitor.enlist(name, f"uv://127.0.0.1:{port}")
        return visitor


class Visitor:
    """A member without an agent, and what it was told."""

    def __init__(self, endpoint: str) -> None:
        self.hosts: dict[str, str] = {}
        self.struck = threading.Event()
        self.membership = Membership(endpoint, timeout_s=10)
        self.id = self.membership.enter()

    def enlist(self, name: str, address: str) -> None:
        self.membership.enlist(name, address, self._hear, self.struck.set)

    def _hear(self, news: News) -> None:
        self.hosts.update({name: host for _, name, _, host in news.joined})


@pytest.fixture
def cluster(door: Door, ends: ExitStack, tmp_path: Path) -> Cluster:
    return Cluster(door, ends, tmp_path)


def test_members_of_other_hosts_come_through_the_gate_and_everybody_hears_where_they_are(cluster: Cluster) -> None:
    gate = cluster.gate()
    near = cluster.join("near", 4001)
    far = cluster.join("phone", 4002, "phone")
    assert near.hosts == far.hosts == {"near": "", "phone": "phone"}
    assert gate.ports == {near.id: (4001, ""), far.id: (4002, "phone")}
    far.membership.leave()
    wait_until(lambda: gate.ports == {near.id: (4001, "")})


def test_a_gate_that_comes_later_is_told_of_all_who_are_there(cluster: Cluster) -> None:
    first = cluster.gate()
    near, far = cluster.join("near", 4001), cluster.join("phone", 4002, "phone")
    first.end()
    second = cluster.gate()
    wait_until(lambda: second.ports == {near.id: (4001, ""), far.id: (4002, "phone")})


def test_who_has_a_port_that_is_taken_here_joins_with_another_one(cluster: Cluster) -> None:
    gate = cluster.gate(4002)
    near = cluster.join("near", 4001)
    with pytest.raises(PortTaken, match="Join it anew"):
        cluster.join("phone", 4002, "phone")
    assert near.hosts == {"near": ""}
    far = cluster.join("phone", 4003, "phone")
    assert gate.ports == {near.id: (4001, ""), far.id: (4003, "phone")}


def test_who_cannot_be_reached_from_a_new_gate_is_struck_off(cluster: Cluster) -> None:
    first = cluster.gate()
    far = cluster.join("phone", 4002, "phone")
    first.end()
    cluster.gate(4002)
    assert far.struck.wait(10)


def test_without_a_gate_nobody_comes_from_elsewhere(cluster: Cluster) -> None:
    cluster.join("near", 4001)
    with pytest.raises(ClusterError, match="the gate of the cluster has ended"):
        cluster.join("phone", 4002, "phone")


def test_a_host_brings_in_its_own_devices_and_sources_and_no_others(cluster: Cluster) -> None:
    cluster.gate()
    for number, name in enumerate(("phone", "@source-1")):
        cluster.join(name, 4001 + number, "phone")
    for name in ("laptop", "phone-1", "phone2", "coordinator", "-phone"):
        with pytest.raises(JoinFailed, match="was let in as phone"):
            cluster.join(name, 4010, "phone")
    with pytest.raises(NameTaken):
        cluster.join("phone", 4011, "phone")


@pytest.mark.parametrize(
    "address", ["", "uv://10.0.0.1:4001", "uv://127.0.0.1:0", "uv://127.0.0.1:631", "uv://127.0.0.1:99999", "x" * 99]
)
def test_who_comes_from_elsewhere_listens_on_its_loopback(cluster: Cluster, address: str) -> None:
    gate = cluster.gate()
    far = cluster.join("phone", 4001, "phone")
    far.membership.leave()
    wait_until(lambda: gate.ports == {})
    other = Visitor(far.membership.endpoint)
    with pytest.raises(JoinFailed, match="does not listen on its loopback"):
        other.enlist("phone", address)
    other.membership.close()


def test_who_asks_twice_keeps_its_first_port(cluster: Cluster) -> None:
    gate = cluster.gate()
    far = cluster.join("phone", 4001, "phone")
    with pytest.raises(ClusterError, match="has been in this cluster before"):
        far.enlist("phone", "uv://127.0.0.1:4002")
    assert gate.ports == {far.id: (4001, "phone")}


@pytest.mark.parametrize(
    "said", [b"", b"\xff" * 40, pack(Done(1, 1)), pack(Carried("")), pack(Carrying()) + b"\xff" * 9]
)
def test_nonsense_at_the_gate_is_hung_up_on(door: Door, cluster: Cluster, said: bytes) -> None:
    with connected(door) as stranger:
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(2**12):
            pass
    cluster.gate()
    cluster.join("phone", 4001, "phone")


class Liar(Visitor):
    """Its gate says of every newcomer that its port is taken there."""

    def _hear(self, news: News) -> None:
        is_there = bool(self.hosts)
        super()._hear(news)
        for member_id, _, _, _ in news.joined:
            if is_there:
                self.membership._connection.say(Unreachable(member_id))


def test_a_host_does_not_keep_others_out_for_long_by_saying_that_ports_are_taken(cluster: Cluster) -> None:
    """Whatever it said was believed, on and on."""
    cluster.gate()
    first = cluster.join("phone", 4001, "phone")
    liar = cluster.join("liar", 4002, "liar", Liar)
    for number in range(CLASHES.at_once):
        with pytest.raises(PortTaken):
            cluster.join("laptop", 4010 + number)
    laptop = cluster.join("laptop", 4020)
    assert liar.struck.wait(10) and not first.struck.is_set() and not laptop.struck.is_set()


class Slow(Visitor):
    """Something happens before it has heard of the next newcomer."""

    meanwhile: Callable[[int], None] | None = None

    def _hear(self, news: News) -> None:
        super()._hear(news)
        if self.meanwhile is not None:
            self.meanwhile(news.joined[0][0])


def test_who_is_no_member_says_nothing_of_ports(cluster: Cluster) -> None:
    cluster.gate()
    slow = cluster.join("phone", 4001, "phone", Slow)
    stranger = Visitor(cluster.carried("phone"))

    def lie(newcomer: int) -> None:
        slow.meanwhile = None
        stranger.membership._connection.say(Unreachable(newcomer))
        stranger.membership.draw("any", 1)

    slow.meanwhile = lie  # type: ignore[method-assign]
    laptop = cluster.join("laptop", 4003)
    assert slow.meanwhile is None and not laptop.struck.is_set()
    stranger.membership.close()


def test_a_host_has_so_many_members_and_no_more(cluster: Cluster) -> None:
    """It could use up all ids and what the door can hold."""
    cluster.gate()
    numbers = range(1, MOST_OF_HOST + 1)
    members = [cluster.join(f"phone:{number}", 4000 + number, "phone") for number in numbers]
    with pytest.raises(JoinFailed, match="The host phone has 32 members in this cluster"):
        cluster.join("@source-1", 4100, "phone")
    cluster.join("tablet", 4101, "tablet")
    members.pop().membership.leave()
    cluster.join("@source-1", 4102, "phone")


def test_a_host_does_not_use_the_ids_of_a_cluster_up(door: Door, cluster: Cluster) -> None:
    """There are 2**15, and none is used again: a minute was enough for all."""
    cluster.gate()
    endpoint = cluster.carried("phone")
    for _ in range(ENTRIES.at_once):
        Visitor(endpoint).membership.close()
    with pytest.raises(JoinFailed, match="The host phone has joined too often"):
        for _ in range(10):
            Visitor(endpoint).membership.close()
    cluster.join("tablet", 4001, "tablet")
    for _ in range(2 * ENTRIES.at_once):
        Visitor(door.endpoint).membership.close()


def test_a_host_has_so_many_connections_and_no_more(cluster: Cluster, ends: ExitStack) -> None:
    cluster.gate()
    endpoint = cluster.carried("phone")
    guests = [Membership(endpoint, timeout_s=10) for _ in range(MOST_GUESTS_OF_HOST)]
    for each in guests:
        ends.callback(each.close)
    assert all(each.sync() is None for each in guests)
    with pytest.raises(ClusterError):
        ends.enter_context(closing(Membership(endpoint, timeout_s=10))).enter()
    guests.pop().close()
    wait_until(lambda: _comes_in(endpoint))


def _comes_in(endpoint: str) -> bool:
    try:
        Visitor(endpoint).membership.close()
    except ClusterError:
        return False
    return True
