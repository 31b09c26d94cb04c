"""A door that is opened again in its folder: who was a member comes back, and nothing is given out twice.

Closing a door writes nothing, as a kill would not; kills are in `integration/test_door_kills.py`.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until

from shardnet.errors import ClusterError, Evicted, JoinFailed, UsageError
from shardnet.process.state_folder import StateFolder
from shardnet.transport.door import desk, knocking
from shardnet.transport.door.door import Door, serve_door
from shardnet.transport.door.membership import Membership
from shardnet.transport.door.messages import Done, News, Refused, Return, length_in, pack, unpack


class Member:
    """A member that looks for its door again, and what it was told."""

    def __init__(self, door: Door, name: str, look_again_s: float = 60.0) -> None:
        self.names: dict[int, str] = {}
        self.events: list[str] = []
        self.struck = threading.Event()
        self.may_look = threading.Event()
        self.may_look.set()
        self.membership = Membership(door.endpoint, timeout_s=10, look_again_s=look_again_s)
        self.id = self.membership.enter()
        self.membership.enlist(name, f"uv://{name}", self._hear, self.struck.set, self._hear_of_door)

    def _hear(self, news: News) -> None:
        for member_id in news.left:
            self.names.pop(member_id, None)
        self.names.update({member_id: name for member_id, name, _, _ in news.joined})

    def _hear_of_door(self, event: str) -> None:
        self.events.append(event)
        self.may_look.wait(30)

    def sees(self) -> list[str]:
        return sorted(self.names.values())

    def is_there(self) -> bool:
        """Whether the door answers."""
        try:
            self.membership.sync()
        except ClusterError:
            return False
        return True

    def wait(self, *events: str) -> None:
        wait_until(lambda: self.events[-len(events) :] == list(events))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    with ExitStack() as ends:
        yield ends


@pytest.fixture
def join(ends: ExitStack) -> Callable[..., Member]:
    def join(door: Door, name: str, **options: Any) -> Member:
        member = Member(door, name, **options)
        ends.callback(member.membership.close)
        return member

    return join


def test_members_come_back_and_hear_what_they_have_missed(folder: Path, join: Callable[..., Member]) -> None:
    with serve_door(folder=folder) as door:
        first, second = join(door, "a"), join(door, "b")
        leaves = join(door, "leaves")
        assert second.membership.draw("plan", 5) == 1
    first.wait("gone")
    with pytest.raises(ClusterError, match="does not answer"):
        first.membership.sync()
    leaves.membership.close()
    with serve_door(folder=folder) as door:
        for member in (first, second):
            member.wait("gone", "back")
        third = join(door, "c")
        assert third.id == leaves.id + 1
        assert first.sees() == ["a", "b", "c", "leaves"], "it has a minute to come back"
        first.membership.strike(leaves.id)
        for member in (first, second, third):
            assert member.sees() == ["a", "b", "c"]
            assert {first.id, second.id, third.id} == set(member.names)
        assert third.membership.draw("plan", 1) == 6
        assert not first.struck.is_set() and not second.struck.is_set()


def test_who_does_not_come_back_is_struck_off(
    folder: Path, join: Callable[..., Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_door(folder=folder) as door:
        comes, late = join(door, "comes"), join(door, "late", look_again_s=0.0)
    late.wait("gone", "given up")
    monkeypatch.setattr(desk, "RETURN_S", 1.0)
    with serve_door(folder=folder) as door:
        comes.wait("gone", "back")
        assert comes.sees() == ["comes", "late"]
        wait_until(lambda: comes.sees() == ["comes"])
        with pytest.raises(Evicted, match=f"Device number {late.id} is not in this cluster any more. Join it anew"):
            say_return(door, late)
    with serve_door(folder=folder):
        comes.wait("gone", "back", "gone", "back")
        assert comes.sees() == ["comes"]


def say_return(door: Door, member: Member, secret: bytes | None = None, version: int | None = None) -> socket.socket:
    """Come back in a member's name; returns the connection."""
    known = member.membership._secret if secret is None else secret
    connection = knocking.knock(door.endpoint, 10)
    connection.settimeout(10)
    connection.sendall(pack(Return(1, member.id, known, member.membership._version if version is None else version)))
    told: Any = None
    while type(told) not in (Done, Refused):
        told = unpack(knocking.read_exactly(connection, length_in(knocking.read_exactly(connection, 4), 2**20)))
    if type(told) is Refused:
        connection.close()
        assert told.kind == "Evicted"
        raise Evicted(told.message)
    return connection


def test_a_member_proves_that_it_is_the_same_one(folder: Path, join: Callable[..., Member]) -> None:
    with serve_door(folder=folder) as door:
        member = join(door, "a", look_again_s=0.0)
        newer = member.membership._version + 1
    with serve_door(folder=folder) as door:
        for wrong in ({"secret": bytes(16)}, {"secret": b""}, {"version": newer}):
            with pytest.raises(Evicted, match="Join it anew"):
                say_return(door, member, **wrong)
        say_return(door, member).close()


def test_who_comes_back_takes_the_place_of_its_dead_connection(folder: Path, join: Callable[..., Member]) -> None:
    """The door has not noticed yet that it is dead, or never would: a cut link says nothing."""
    with serve_door(folder=folder) as door:
        watcher, member = join(door, "watcher"), join(door, "member", look_again_s=0.0)
        with say_return(door, member) as connection:
            member.wait("gone", "given up")
            watcher.membership.sync()
            assert watcher.sees() == ["member", "watcher"]
            newcomer = join(door, "newcomer")
            assert b"newcomer" in connection.recv(1000)
            assert newcomer.sees() == ["member", "newcomer", "watcher"]
        wait_until(lambda: watcher.sees() == ["newcomer", "watcher"])


def test_who_was_struck_off_meanwhile_hears_that(folder: Path, join: Callable[..., Member]) -> None:
    with serve_door(folder=folder) as door:
        stays, goes = join(door, "stays"), join(door, "goes")
        goes.may_look.clear()
    with serve_door(folder=folder) as door:
        stays.wait("gone", "back")
        stays.membership.strike(goes.id)
        goes.may_look.set()
        assert goes.struck.wait(20)
        assert goes.events == ["gone"]
        assert stays.sees() == ["stays"]
        assert join(door, "goes").id > goes.id


def test_another_cluster_in_the_folder_knows_nobody(folder: Path, join: Callable[..., Member]) -> None:
    with serve_door(folder=folder) as door:
        member = join(door, "a")
    (folder / "roster.json").unlink()
    with serve_door(folder=folder) as door:
        assert member.struck.wait(20)
        assert join(door, "a").sees() == ["a"]


def test_a_name_is_kept_for_who_may_come_back(folder: Path, join: Callable[..., Member], tmp_path: Path) -> None:
    """But not against another member of the same process: it is that one that has the name no more."""
    with serve_door(folder=folder) as door:
        join(door, "mine", look_again_s=0.0)
        join(door, "unknown", look_again_s=0.0)
        join(door, "other", look_again_s=0.0)
    change_process(folder, {"other": "living", "unknown": ""})
    with serve_door(folder=folder) as door:
        for name in ("mine", "unknown"):
            assert join(door, name).sees().count(name) == 1
        with pytest.raises(JoinFailed, match=r"called other was here before .* may come back\. Try again in 60 s"):
            Member(door, "other")


def change_process(folder: Path, processes: dict[str, str]) -> None:
    """Let members be of other processes: "living" stands for the parent of this one."""
    from shardnet.process.identity import _boot, _namespace, _state_of
    from shardnet.transport.door.roster import Roster
    from shardnet.transport.door.roster_file import file_of, roster_in

    living = f"{_boot()} {_namespace()} {os.getppid()} {_state_of(os.getppid())[1]}"
    state = roster_in(folder).state
    changed = []
    for member, version in state.members:
        process = processes.get(member.name, member.process)
        changed.append((member._replace(process=living if process == "living" else process), version))
    (folder / "roster.json").write_bytes(file_of(Roster(state._replace(members=tuple(changed)))))


def test_whose_process_has_ended_is_struck_off_at_once(folder: Path, join: Callable[..., Member]) -> None:
    with serve_door(folder=folder) as door:
        stays, died = join(door, "stays"), join(door, "died")
        died.membership.leave()
        died = join(door, "died", look_again_s=0.0)
    change_process(folder, {"died": "another-boot pid:[1] 1 1"})
    with serve_door(folder=folder):
        stays.wait("gone", "back")
        wait_until(lambda: stays.sees() == ["stays"])


def test_a_door_that_is_opened_and_closed_many_times_in_a_row(
    folder: Path, join: Callable[..., Member], caplog: pytest.LogCaptureFixture
) -> None:
    """Threads and files stay as many as they were, and so do members and their ids. Once, who knocked while the door
    was being closed was seen on standard error."""
    with serve_door(folder=folder) as door:
        members = [join(door, name) for name in "abc"]
    dice = random.Random(5)
    counts: set[tuple[int, int]] = set()
    for number in range(50):
        with serve_door(folder=folder) as door:
            if number % 7:
                time.sleep(dice.random() * 0.05)
                continue
            for member in members:
                wait_until(member.is_there)
                assert member.sees() == ["a", "b", "c"]
            if not counts:
                counts.add(threads_and_files())
            wait_until(lambda: threads_and_files() in counts)
    assert not any(member.struck.is_set() for member in members)
    assert caplog.records == []


def threads_and_files() -> tuple[int, int]:
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def test_numbers_are_drawn_once_over_all_openings(folder: Path, join: Callable[..., Member]) -> None:
    """By three who draw all the while, of whom one joins anew each time."""
    drawn: list[int] = []
    ids: list[int] = []
    is_over = threading.Event()

    def draw(member: Member) -> None:
        while not is_over.is_set():
            try:
                drawn.append(member.membership.draw("plan", 1))
            except ClusterError:
                time.sleep(0.01)

    with serve_door(folder=folder) as door:
        threads = [threading.Thread(target=draw, args=(join(door, name),)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
    for number in range(10):
        with serve_door(folder=folder) as door:
            ids.append(join(door, f"comes-{number}", look_again_s=0.0).id)
            so_far = len(drawn)
            wait_until(lambda n=so_far: len(drawn) > n + 20)
    is_over.set()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == len(drawn) > 200
    assert ids == sorted(set(ids))


def test_nothing_is_told_before_it_is_kept(
    folder: Path, join: Callable[..., Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or who was told of it would miss what gets its version later, when the door was killed before it was written."""
    may_write = threading.Event()
    may_write.set()
    write = StateFolder.write

    def slow(self: StateFolder, name: str, content: bytes) -> None:
        may_write.wait(30)
        write(self, name, content)

    monkeypatch.setattr(StateFolder, "write", slow)
    with serve_door(folder=folder) as door:
        watcher, goes = join(door, "watcher"), join(door, "goes")
        may_write.clear()
        goes.membership.close()
        answers: list[int] = []
        drawing = threading.Thread(target=lambda: answers.append(watcher.membership.draw("plan", 1)))
        drawing.start()
        watcher.membership.sync()
        assert watcher.sees() == ["goes", "watcher"] and answers == []
        assert b'"left": []' in (folder / "roster.json").read_bytes()
        may_write.set()
        drawing.join()
        wait_until(lambda: watcher.sees() == ["watcher"])
        assert answers == [1]


def test_a_full_disk_refuses_and_is_tried_again(
    folder: Path, join: Callable[..., Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "KEEP_AGAIN_S", 0.05)
    with serve_door(folder=folder) as door:
        watcher, goes = join(door, "watcher"), join(door, "goes")
        with monkeypatch.context() as patch:

            def full(*_: Any) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(StateFolder, "write", full)
            with pytest.raises(ClusterError, match=f"The door cannot write to {folder}: No space left on device. Look"):
                watcher.membership.draw("plan", 1)
            with pytest.raises(ClusterError, match="Look at that folder"):
                Member(door, "newcomer")
            goes.membership.close()
            time.sleep(0.2)
            assert watcher.sees() == ["goes", "watcher"]
        wait_until(lambda: watcher.sees() == ["watcher"])
        assert watcher.membership.draw("plan", 1) == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def change(path: Path) -> None:
    content = json.loads(path.read_text())
    content["roster"]["last_id"] -= 1
    path.write_text(json.dumps(content))


def foreign(path: Path) -> None:
    path.write_text('{"name": "somebody"}')


def a_list(path: Path) -> None:
    path.write_text("[1, 2]")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut, empty, change, foreign, a_list, a_folder])
def test_a_torn_or_foreign_roster_is_a_sentence(
    folder: Path, join: Callable[..., Member], damage: Callable[[Path], None]
) -> None:
    with serve_door(folder=folder) as door:
        join(door, "a", look_again_s=0.0)
    path = folder / "roster.json"
    damage(path)
    for _ in range(2):
        with pytest.raises(
            UsageError, match=rf"^{path} is damaged, or of another version of shardnet \(.*\)\. Remove it"
        ):
            serve_door(folder=folder)
    assert not (folder / "door").exists()


def test_half_a_roster_beside_the_whole_one_is_nothing(folder: Path, join: Callable[..., Member]) -> None:
    """What a kill in the middle of writing leaves."""
    with serve_door(folder=folder) as door:
        member = join(door, "a")
    (folder / "roster.json.half").write_bytes((folder / "roster.json").read_bytes()[:40])
    with serve_door(folder=folder):
        member.wait("gone", "back")


def test_a_door_is_given_up_in_time(folder: Path, join: Callable[..., Member]) -> None:
    with serve_door(folder=folder) as door:
        member = join(door, "a", look_again_s=0.5)
        at_once = join(door, "b", look_again_s=0.0)
    begun_s = time.monotonic()
    at_once.wait("gone", "given up")
    member.wait("gone", "given up")
    assert 0.3 < time.monotonic() - begun_s < 5
    assert not member.membership._thread.is_alive()
    with pytest.raises(ClusterError, match="does not answer: its process has ended"):
        member.membership.draw("plan", 1)


@pytest.mark.parametrize("is_there", [False, True], ids=["nobody", "one that never answers"])
def test_who_looks_for_its_door_can_leave_at_once(folder: Path, join: Callable[..., Member], is_there: bool) -> None:
    with serve_door(folder=folder) as door:
        member = join(door, "a")
        path = folder / "door"
    member.wait("gone")
    with socket.socket(socket.AF_UNIX) as deaf:
        if is_there:
            deaf.bind(str(path))
            deaf.listen()
            deaf.settimeout(20)
            connection, _ = deaf.accept()
        begun_s = time.monotonic()
        with pytest.raises(ClusterError):
            member.membership.leave()
        member.membership.close()
        assert time.monotonic() - begun_s < 1
        assert member.events == ["gone"]
        if is_there:
            connection.close()


def test_what_is_no_door_of_ours_is_looked_past(folder: Path, join: Callable[..., Member]) -> None:
    """Something else listens there for a while, and hangs up, or talks nonsense."""
    with serve_door(folder=folder) as door:
        member = join(door, "a")
        path = folder / "door"
    for said in (b"", b"HTTP/1.1 200 OK\r\n" + bytes(200), b"shardnet" + bytes(100)):
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            other.listen()
            other.settimeout(20)
            connection, _ = other.accept()
            with connection:
                connection.sendall(said)
            path.unlink()
    with serve_door(folder=folder):
        member.wait("gone", "back")
