"""The door and real processes: they come, are killed, freeze and fork, and another user tries to get in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from integration.rpc_device import FORKED, Device, expose_endpoints
from processes import is_frozen, wait_until

from shardnet.cluster.local_workers import LocalWorkers
from shardnet.errors import ClusterError
from shardnet.transport import RpcTransport, serve_door
from shardnet.transport.door.membership import Membership

NUM_DEVICES = 30


class Scene:
    """A door, and this process as "source". All ends with the test."""

    def __init__(self, ends: ExitStack) -> None:
        self._ends = ends
        self.door = ends.enter_context(serve_door())
        self.source = ends.enter_context(RpcTransport.join(self.door.endpoint, "source"))
        expose_endpoints(self.source)

    def start(self, *names: str) -> list[Device]:
        """All at once."""
        devices = [self._ends.enter_context(Device(self.door.endpoint, name)) for name in names]
        return [device.wait_joined() for device in devices]

    def echo(self, name: str) -> bool:
        return bool(self.source.post(name, "echo", 1, timeout_s=20).result(30) == (1,))


@pytest.fixture
def scene() -> Iterator[Scene]:
    with ExitStack() as ends:
        yield Scene(ends)


def test_thirty_come_are_killed_and_come_again_and_the_others_go_on(scene: Scene) -> None:
    """One that stays calls another all the while: no call fails. At the end, all know the same members."""
    (survivor,) = scene.start("survivor")
    is_over = threading.Event()
    num_calls, failures = [0], []

    def call() -> None:
        while not is_over.is_set():
            try:
                assert scene.echo("survivor")
                num_calls[0] += 1
            except Exception as error:
                failures.append(error)
                return

    calling = threading.Thread(target=call)
    calling.start()
    ids = set()
    try:
        for _ in range(2):
            devices = scene.start(*(f"device-{number}" for number in range(NUM_DEVICES)))
            assert len(scene.source.members()) == len(survivor.ask("members")) == NUM_DEVICES + 2
            for device in devices:
                ids.add(device.ask("id"))
                assert device.ask("post", "survivor", "echo", 1) == (1,)
                assert scene.echo(device.name)
            for device in devices:
                device.kill()
        (last,) = scene.start("device-0")
        wait_until(lambda: scene.source.members() == ("device-0", "source", "survivor"))
        assert last.ask("members") == survivor.ask("members") == ["device-0", "source", "survivor"]
    finally:
        is_over.set()
        calling.join(60)
    assert failures == []
    assert num_calls[0] > 100
    assert len(ids) == 2 * NUM_DEVICES


def test_one_that_was_frozen_while_others_came_and_went_learns_all_of_it(scene: Scene) -> None:
    frozen, stays, goes = scene.start("frozen", "stays", "goes")
    assert frozen.ask("post", "goes", "echo", 1) == (1,)
    frozen.stop()
    goes.kill()
    for _ in range(3):
        scene.start("comes-and-goes")[0].kill()
    again, new = scene.start("goes", "new")
    assert scene.source.members() == ("frozen", "goes", "new", "source", "stays")
    frozen.proceed()
    wait_until(lambda: frozen.ask("members") == stays.ask("members") == ["frozen", "goes", "new", "source", "stays"])
    for name in ("goes", "new", "stays"):
        assert frozen.ask("post", name, "echo", 1) == (1,)
    assert again.ask("post", "frozen", "echo", 1) == new.ask("post", "frozen", "echo", 1) == (1,)


def test_a_device_that_was_struck_off_while_it_was_frozen_joins_anew(scene: Scene) -> None:
    """It used to stay, of no use to anybody, for as long as its process lived."""
    with LocalWorkers(scene.door.endpoint, ["device-0"], threads=1) as workers:
        wait_until(lambda: "device-0" in scene.source.members())
        first = scene.source.peer("device-0").id
        device = psutil.Process(workers.pids["device-0"])
        device.suspend()
        wait_until(lambda: is_frozen(device.pid))
        scene.source.evict("device-0")
        assert scene.source.members() == ("source",)
        device.resume()
        wait_until(lambda: "device-0" in scene.source.members())
        assert scene.source.peer("device-0").id > first
        assert scene.source.post("device-0", "describe", timeout_s=20).result(30).device == "device-0"
        assert scene.source.post("device-0", "stages", timeout_s=20).result(30) == []
        assert workers.poll() == []


def test_a_forked_child_is_not_taken_for_its_killed_parent(scene: Scene) -> None:
    """It has copies of the connections; with them, a member and a door would seem to live on."""
    (device,) = scene.start("device-1")
    child = device.ask("fork")
    try:
        device.kill()
        wait_until(lambda: scene.source.members() == ("source",))
        assert psutil.pid_exists(child)
    finally:
        os.kill(child, signal.SIGKILL)


def open_a_door(folder: Path | None, pipe: Any) -> None:
    with serve_door(folder=folder) as door:
        pipe.send(door.endpoint)
        pipe.recv()
        child = os.fork()
        if not child:
            signal.pause()
        pipe.send(child)
        pipe.recv()


@pytest.mark.parametrize("has_folder", [False, True])
def test_a_forked_child_is_not_taken_for_a_killed_door(tmp_path: Path, has_folder: bool) -> None:
    folder = tmp_path / "state" if has_folder else None
    pipe, end = FORKED.Pipe()
    process = FORKED.Process(target=open_a_door, args=(folder, end), daemon=True)
    process.start()
    membership = Membership(pipe.recv(), timeout_s=20)
    pipe.send("fork")
    child = pipe.recv()
    try:
        membership.sync()
        process.kill()
        process.join()
        with pytest.raises(ClusterError, match="does not answer: its process has ended"):
            while True:
                membership.sync()
        if folder is not None:
            serve_door(folder=folder).close()
    finally:
        os.kill(child, signal.SIGKILL)
        membership.close()


STRANGER = """
import encodings.idna, json, os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
endpoint, tcp, key, greeting = sys.argv[1], sys.argv[2], sys.argv[3], bytes.fromhex(sys.argv[4])
outcomes = {"uid": os.getuid()}

def attempt(name, function):
    try:
        outcomes[name] = repr(function())
    except OSError as error:
        outcomes[name] = type(error).__name__

def through_the_socket():
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(endpoint)

def past_the_challenge():
    host, port = tcp.split(":")
    with socket.create_connection((host, int(port)), 20) as stranger:
        stranger.sendall(greeting)
        told, length = b"", len(greeting) + 32
        while len(told) < length:
            told += stranger.recv(length - len(told))
        stranger.sendall(bytes(32) + bytes.fromhex(sys.argv[5]))
        try:
            return stranger.recv(1000)
        except ConnectionResetError:
            return b""

attempt("list", lambda: os.listdir(os.path.dirname(endpoint)))
attempt("connect", through_the_socket)
attempt("key", lambda: open(key, "rb").read())
attempt("challenge", past_the_challenge)
print(json.dumps(outcomes))
"""


@pytest.mark.root
def test_another_user_neither_opens_the_socket_nor_passes_the_challenge(scene: Scene) -> None:
    from shardnet.transport.door.challenge import greet
    from shardnet.transport.door.messages import Enter, pack

    with serve_door("127.0.0.1") as other:
        key = os.path.expanduser("~/.config/shardnet/door.key")
        words = [scene.door.endpoint.removeprefix("unix:"), other.endpoint, key, greet().hex(), pack(Enter(1)).hex()]
        done = subprocess.run(
            [sys.executable, "-I", "-c", STRANGER, *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {
            "uid": 65534,
            "list": "PermissionError",
            "connect": "PermissionError",
            "key": "PermissionError",
            "challenge": "b''",
        }
        membership = Membership(other.endpoint, timeout_s=10)
        assert membership.enter() > 0
        membership.close()
        listening = [each.laddr for each in psutil.Process().net_connections("inet") if each.status == "LISTEN"]
        assert len(listening) == 2, "the agent, and the door that asks for a key"
