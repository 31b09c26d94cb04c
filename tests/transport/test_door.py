"""The door and its visitors, over real sockets in one process: members, many at once, and those who may not come in."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until

from shardnet.errors import ClusterError, JoinFailed, ShardnetError, UsageError
from shardnet.transport.door import door as door_module
from shardnet.transport.door import knocking
from shardnet.transport.door.challenge import MEMBER, Exchange, greet
from shardnet.transport.door.connection import DoorConnection
from shardnet.transport.door.door import Door, serve_door
from shardnet.transport.door.endpoint import split_endpoint
from shardnet.transport.door.key import own_key
from shardnet.transport.door.listening import short_path, tend, where
from shardnet.transport.door.membership import Membership
from shardnet.transport.door.messages import GREETING_BYTES, PROOF_BYTES, Draw, Enlist, Enter, News, pack


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.fixture(params=[None, "127.0.0.1", "::1", "folder"], ids=["unix", "tcp", "ipv6", "folder"])
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Door]:
    if request.param == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    is_folder = request.param == "folder"
    with serve_door(folder=tmp_path / "state") if is_folder else serve_door(request.param) as opened:
        yield opened


class Visitor:
    """A member without an agent, and what it was told."""

    def __init__(self, door: Door, name: str = "") -> None:
        self.name = name
        self.names: dict[int, str] = {}
        self.struck = threading.Event()
        self.membership = Membership(door.endpoint, timeout_s=10)
        self.id = self.membership.enter()
        if name:
            self.enlist(name)

    def enlist(self, name: str) -> None:
        self.membership.enlist(name, f"uv://{name}", self._hear, self.struck.set)

    def _hear(self, news: News) -> None:
        for member_id in news.left:
            self.names.pop(member_id, None)
        self.names.update({member_id: name for member_id, name, _, _ in news.joined})

    def sees(self) -> list[str]:
        return sorted(self.names.values())


def all_of(works: list[Callable[[], Any]]) -> list[Any]:
    """What they return or raise, begun at the same moment."""
    start = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> Any:
        start.wait(10)
        try:
            return work()
        except ShardnetError as error:
            return error

    with ThreadPoolExecutor(len(works)) as threads:
        return list(threads.map(run, works))


def test_members_hear_of_each_other_before_a_join_returns(door: Door) -> None:
    first = Visitor(door, "a")
    second = Visitor(door, "b")
    assert first.sees() == second.sees() == ["a", "b"]
    assert second.id == first.id + 1
    second.membership.leave()
    assert first.sees() == ["a"]
    third = Visitor(door, "b")
    third.membership.close()
    wait_until(lambda: first.sees() == ["a"])
    first.membership.close()


def test_many_join_at_once(door: Door) -> None:
    visitors = [Visitor(door) for _ in range(30)]
    assert all_of([lambda v=v: v.enlist(f"device-{v.id}") for v in visitors]) == [None] * 30  # type: ignore[misc]
    names = sorted(f"device-{visitor.id}" for visitor in visitors)
    for visitor in visitors:
        visitor.membership.sync()
        assert visitor.sees() == names
    assert len({visitor.id for visitor in visitors}) == 30


def test_of_those_who_want_a_name_at_once_one_gets_it(door: Door) -> None:
    for _ in range(5):
        visitors = [Visitor(door) for _ in range(8)]
        outcomes = all_of([lambda v=v: v.enlist("device-1") for v in visitors])  # type: ignore[misc]
        assert outcomes.count(None) == 1
        for error in outcomes:
            assert error is None or (isinstance(error, JoinFailed) and "in the cluster already" in str(error))
        winner = visitors[outcomes.index(None)]
        assert winner.names == {winner.id: "device-1"}
        for visitor in visitors:
            visitor.membership.close()


def test_joins_against_evictions(door: Door) -> None:
    """Names that are struck off and taken again all the while; nobody is left over, and all who stay agree."""
    watcher = Visitor(door, "watcher")
    strikers = [Visitor(door, f"striker-{number}") for number in range(4)]

    def come_and_be_struck(striker: Visitor) -> int:
        num_struck = 0
        for _ in range(10):
            visitor = Visitor(door, f"victim-of-{striker.name}")
            striker.membership.strike(visitor.id)
            assert visitor.id not in striker.names
            assert visitor.struck.wait(10)
            num_struck += 1
        return num_struck

    works = [lambda s=s: come_and_be_struck(s) for s in strikers]  # type: ignore[misc]
    assert all_of(works) == [10] * 4
    watcher.membership.sync()
    assert watcher.sees() == sorted(["watcher", *(striker.name for striker in strikers)])
    with pytest.raises(ClusterError, match="has been in this cluster before"):
        watcher.enlist("again")


def test_numbers_are_drawn_once_by_whoever_asks(door: Door) -> None:
    visitors = [Visitor(door) for _ in range(4)]
    draws = [lambda v=v: [v.membership.draw("plan", 2) for _ in range(20)] for v in visitors]  # type: ignore[misc]
    drawn = [number for numbers in all_of(draws) for number in numbers]
    assert sorted(drawn) == list(range(1, 161, 2))


class Silent:
    """A member that has been on the roster and reads nothing any more, as a frozen process does."""

    def __init__(self, door: Door, name: str) -> None:
        self.socket = knocking.knock(door.endpoint, 10)
        self.socket.settimeout(10)
        self.socket.sendall(pack(Enter(1)) + pack(Enlist(2, name, "", b"")))
        wait_until(lambda: bool(self.socket.recv(1, socket.MSG_PEEK)))


def test_a_silent_member_holds_nobody_up_for_long_and_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardnet.transport.door.desk.NOTICE_S", 0.3)
    with serve_door() as door:
        first = Visitor(door, "a")
        silent = Silent(door, "silent")
        wait_until(lambda: first.sees() == ["a", "silent"])
        second = Visitor(door, "b")
        assert second.sees() == ["a", "b", "silent"]
        with pytest.raises(JoinFailed, match="is in the cluster and does not answer"):
            Visitor(door, "silent")
        for number in range(20):
            Visitor(door, f"c{number}").membership.close()
        silent.socket.close()
        wait_until(lambda: first.sees() == ["a", "b"])


def test_what_waits_for_a_silent_member_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told the rest at once, when it reads again."""
    monkeypatch.setattr("shardnet.transport.door.guest.MOST_UNSENT_BYTES", 1)
    monkeypatch.setattr("shardnet.transport.door.desk.NOTICE_S", 0.05)
    with serve_door() as door:
        silent = Visitor(door, "silent")
        reading = threading.Event()
        hear = silent.membership._on_news
        silent.membership._on_news = lambda news: (reading.wait(30), hear(news))[1]  # type: ignore[func-returns-value]
        long = "x" * 1500
        for number in range(150):
            visitor = Visitor(door)
            visitor.membership.enlist(f"{number}", long, lambda news: None, lambda: None)
            visitor.membership.close()
        reading.set()
        silent.membership.sync()
        wait_until(lambda: silent.sees() == ["silent"])


def test_a_door_that_closes_is_noticed_at_once_and_questions_fail(door: Door) -> None:
    first = Visitor(door, "a")
    door.close()
    door.close()
    with pytest.raises(ClusterError, match=r"The door at .* does not answer: .*\. Is the coordinator running\?"):
        first.membership.sync()
    with pytest.raises(JoinFailed, match=r"No cluster answers at .* within 0.1 s"):
        Membership(door.endpoint, timeout_s=0.1)
    first.membership.close()


def test_the_socket_of_a_user_is_closed_to_others_and_goes_with_the_door() -> None:
    with serve_door() as door:
        folder = Path(door.endpoint.removeprefix("unix:")).parent
        status = folder.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, os.getuid())
        folder.chmod(0o755)
        with pytest.raises(UsageError, match="must belong to this user and be closed to all others"):
            Membership(door.endpoint, timeout_s=1)
    assert not folder.exists()


def test_a_folder_may_have_a_long_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of a Unix socket has at most 107 bytes."""
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with serve_door() as door:
        assert len(door.endpoint) > 130
        assert Visitor(door, "a").sees() == ["a"]


def test_a_door_in_a_folder_is_always_at_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the one before was killed, and has left its socket there."""
    monkeypatch.setattr("shardnet.process.state_folder.LET_GO_S", 0.1)
    folder = tmp_path / ("long" * 30)
    for _ in range(2):
        with serve_door(folder=folder) as door:
            assert door.endpoint == f"unix:{folder}/door"
            visitor = Visitor(door, "a")
            with pytest.raises(UsageError, match=f"A cluster runs in {folder} already"):
                serve_door(folder=folder)
            assert visitor.sees() == ["a"]
        assert not (folder / "door").exists()
        left = socket.socket(socket.AF_UNIX)
        with short_path(folder / "door") as name:
            left.bind(name)
        left.close()
        assert (folder / "door").is_socket()


def test_what_is_no_socket_of_ours_stays(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "door").write_text("mine")
    for _ in range(2):
        with pytest.raises(
            UsageError, match=f"Devices cannot meet at {tmp_path}/door: .*in use. Look at what is there"
        ):
            serve_door(folder=tmp_path)
    assert (tmp_path / "door").read_text() == "mine"


def test_a_door_has_one_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at an address or in a folder"):
        serve_door("127.0.0.1", folder=tmp_path / "state")


def test_a_door_on_all_addresses_is_open_to_both_families() -> None:
    """Once, the proofs differed for who came by IPv4, as it is a part of IPv6 there, and the key was blamed."""
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with serve_door("::", beyond_loopback=True) as door:
        port = split_endpoint(door.endpoint)[1]
        for host in ("127.0.0.1", "[::1]"):
            Membership(f"{host}:{port}", timeout_s=10).close()


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "::", "192.0.2.1", "::ffff:192.0.2.1", "fe80::1"])
def test_a_door_on_another_address_than_loopback_is_refused(host: str) -> None:
    """0.0.0.0 was opened without a word, on all interfaces."""
    with pytest.raises(UsageError, match=r"not on this machine's loopback.* Choose 127\.0\.0\.1:29500\."):
        serve_door(host, 29500)


def test_a_name_is_what_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 29500))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [found])
    with pytest.raises(UsageError, match=r"^phone:29500 \(192\.0\.2\.1\) is not on this machine's loopback"):
        serve_door("phone", 29500)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::ffff:127.0.0.1"])
def test_every_address_of_the_loopback_may_have_a_door(host: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with serve_door(host) as door:
        Membership(door.endpoint, timeout_s=10).close()


def test_what_is_called_otherwise_elsewhere_is_no_part_of_an_address() -> None:
    assert where(("::ffff:10.0.0.1", 5, 0, 0)) == where(("10.0.0.1", 5)) == "10.0.0.1:5"
    assert where(("fe80::1%wlan0", 5, 0, 2)) == where(("fe80::1%eth1", 5, 0, 3)) == "[fe80::1]:5"


def test_a_host_that_is_gone_is_noticed_also_while_something_is_on_its_way() -> None:
    with serve_door("127.0.0.1") as door, connect(door) as connection:
        tend(connection)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


def test_a_door_that_cannot_be_opened_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def bind(*_: object) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "bind", bind)
        with pytest.raises(UsageError, match="Devices cannot meet in"):
            serve_door()
    assert list(tmp_path.iterdir()) == []


# ---- those who may not come in ----


def connect(door: Door) -> socket.socket:
    path = door.endpoint.removeprefix("unix:")
    if path == door.endpoint:
        return socket.create_connection(split_endpoint(door.endpoint), 10)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(path)
    return connection


def is_hung_up(connection: socket.socket) -> bool:
    """Whether the door has closed a connection. Whatever it still says is passed over."""
    try:
        while connection.recv(2**16):
            pass
    except ConnectionResetError:
        pass
    return True


def let_in(door: Door) -> socket.socket:
    connection = knocking.knock(door.endpoint, 10)
    connection.settimeout(10)
    return connection


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + b" " * 100, bytes(1000), b"\xff" * 1000, b"shardnet" + bytes(1000)],
    ids=["http", "zeros", "ones", "another version"],
)
def test_who_does_not_greet_is_sent_away(door: Door, said: bytes) -> None:
    with connect(door) as stranger:
        stranger.sendall(said)
        assert is_hung_up(stranger)
    assert Visitor(door, "a").sees() == ["a"]


def test_who_does_not_know_the_key_is_sent_away() -> None:
    with serve_door("127.0.0.1") as door, connect(door) as stranger:
        said = greet()
        stranger.sendall(said)
        answer = knocking.read_exactly(stranger, GREETING_BYTES + PROOF_BYTES)[:GREETING_BYTES]
        where = door.endpoint
        stranger.sendall(Exchange(b"guess", where, said, answer).proof(MEMBER) + pack(Enter(1)))
        assert is_hung_up(stranger)


def test_what_was_proven_once_is_no_proof_again() -> None:
    with serve_door("127.0.0.1") as door, connect(door) as stranger:
        stranger.sendall(said := greet())
        first = knocking.read_exactly(stranger, GREETING_BYTES + PROOF_BYTES)[:GREETING_BYTES]
        proof = Exchange(own_key(), door.endpoint, said, first).proof(MEMBER)
        with connect(door) as again:
            again.sendall(said)
            knocking.read_exactly(again, GREETING_BYTES + PROOF_BYTES)
            again.sendall(proof)
            assert is_hung_up(again)


def test_who_passes_on_what_the_true_door_says_is_no_door() -> None:
    """A stranger on another port asks the true door to prove itself, and hands that on."""
    with serve_door("127.0.0.1") as door, socket.create_server(("127.0.0.1", 0)) as false:

        def pass_on() -> None:
            victim, _ = false.accept()
            with victim, connect(door) as true:
                true.sendall(knocking.read_exactly(victim, GREETING_BYTES))
                victim.sendall(knocking.read_exactly(true, GREETING_BYTES + PROOF_BYTES))
                is_hung_up(victim)

        thread = threading.Thread(target=pass_on)
        thread.start()
        with pytest.raises(JoinFailed, match="does not know the key of this user"):
            Membership(f"127.0.0.1:{false.getsockname()[1]}", timeout_s=10)
        thread.join()


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\n" + bytes(100), b"shardnet" + bytes(100)], ids=["http", "old"])
def test_what_is_no_door_is_told(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.sendall(said)
                is_hung_up(connection)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(
            JoinFailed, match=r"is no cluster of shardnet|runs an unknown version of shardnet \(wire format 0\)"
        ):
            Membership(f"127.0.0.1:{other.getsockname()[1]}", timeout_s=10)
        thread.join()


def test_who_takes_too_long_is_sent_away(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte by byte, or not at all."""
    monkeypatch.setattr(door_module, "KNOCK_S", 0.2)
    with connect(door) as slow, connect(door) as mute:
        slow.sendall(greet()[:-1])
        assert is_hung_up(slow) and is_hung_up(mute)


def test_many_who_only_stand_there_make_room_for_who_comes_in(door: Door) -> None:
    crowd = [connect(door) for _ in range(door_module.MOST_KNOCKING + 40)]
    assert Visitor(door, "a").sees() == ["a"]
    assert is_hung_up(crowd[0])
    wait_until(lambda: len(door._connections) <= door_module.MOST_KNOCKING + 1)
    for stranger in crowd:
        stranger.close()


@pytest.mark.parametrize(
    "said",
    [
        bytes(4),
        (2**12 + 1).to_bytes(4, "little"),
        b"\xff" * 4,
        b"\1\0\0\0\xff",
        b"\1\0\0\0\1",
        pack(News(1, (), ())),
        pack(Draw(1, "plan", 1))[:-1] + b"\xff",
        (9).to_bytes(4, "little") + b"\0" + bytes(7) + b"\xff" + bytes(8),
    ],
    ids=["empty", "long", "huge", "no kind", "cut", "the door's own", "changed", "two in one"],
)
def test_who_is_in_and_speaks_nonsense_is_sent_away(door: Door, said: bytes) -> None:
    watcher = Visitor(door, "watcher")
    with let_in(door) as member:
        member.sendall(pack(Enter(1)) + pack(Enlist(2, "member", "", b"")))
        wait_until(lambda: watcher.sees() == ["member", "watcher"])
        member.sendall(said + bytes(2**13))
        assert is_hung_up(member)
    wait_until(lambda: watcher.sees() == ["watcher"])
    assert watcher.membership.draw("plan", 1) == 1


def test_who_asks_and_never_reads_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardnet.transport.door.guest.MOST_UNREAD_BYTES", 2**12)
    monkeypatch.setattr("shardnet.transport.door.guest.MOST_UNSENT_BYTES", 2**12)
    with serve_door() as door, let_in(door) as member, pytest.raises(OSError):  # whichever way it ends
        while True:
            member.sendall(pack(Enter(1)) * 100)


def test_a_name_or_an_address_that_is_too_long_is_no_message(door: Door) -> None:
    visitor = Visitor(door)
    with pytest.raises(ClusterError, match=r"The door at .* does not answer"):
        visitor.membership.enlist("a", "x" * 5000, lambda news: None, lambda: None)


# ---- the key ----


def test_a_key_is_made_once_and_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = all_of([own_key] * 8)
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    folder = tmp_path / ".config/shardnet"
    assert [file.name for file in folder.iterdir()] == ["door.key"]
    assert stat.S_IMODE((folder / "door.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("open_to_others", ["", "door.key"])
def test_a_key_that_others_can_read_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_to_others: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own_key()
    (tmp_path / ".config/shardnet" / open_to_others).chmod(0o750)
    with pytest.raises(UsageError, match="must belong to this user and be closed to all others"):
        own_key()
    with pytest.raises(UsageError, match="closed to all others"):
        serve_door("127.0.0.1")


def test_a_key_that_is_damaged_or_no_file_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own_key()
    key = tmp_path / ".config/shardnet/door.key"
    key.write_bytes(b"short")
    with pytest.raises(UsageError, match=r"is damaged\. Remove it"):
        own_key()
    key.unlink()
    key.symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="cannot be made or read"):
        own_key()
    monkeypatch.setenv("HOME", "/proc/nowhere")
    with pytest.raises(UsageError, match="cannot be made or read"):
        own_key()


def test_another_home_is_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_door("127.0.0.1") as door:
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(JoinFailed, match=r"does not know the key of this user \(~/.config/shardnet/door.key\)"):
            Membership(door.endpoint, timeout_s=10)


def test_the_door_listens_where_it_was_asked_to_and_nowhere_else() -> None:
    with serve_door("127.0.0.1") as door:
        host, port = split_endpoint(door.endpoint)
        assert host == "127.0.0.1"
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", port), 1)


def test_whoever_hears_first_that_a_door_is_gone_says_the_same() -> None:
    """Who wrote into the closed connection said "Broken pipe" before its reader had noticed."""
    here, there = socket.socketpair()
    with there:
        connection = DoorConnection(here)
    with pytest.raises(OSError):
        while True:
            connection.say(Enter(1))
    assert connection.why_over == "its process has ended"
    connection.close()
