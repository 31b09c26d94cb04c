"""What goes wrong where machines meet: each is one sentence that says what to do, with the exit code of its kind."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until
from telling_command import TellingCommand
from tiny_text_model import save_text_model
from warm_python import WARM_PYTHON

COMMAND = (*WARM_PYTHON, "-m", "shardnet.launch.cli")
A_DAY_AHEAD = (
    "import sys, time; real = time.time; time.time = lambda: real() + 86400; "
    "from shardnet.launch.cli import main; main()"
)
FULL_DISK = (
    "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); from shardnet.launch.cli import main; main()"
)
Done = subprocess.CompletedProcess[str]


class Cluster:
    """One that other machines may join, and a machine that tries to: a folder of its own, on the same loopback."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.state = folder / "up"
        options = ("--no-device", "--listen", "127.0.0.1:0", "--state", self.state, "--model", model, "--json")
        self.up = TellingCommand([*COMMAND, "up", *options])

    @property
    def first(self) -> dict[str, Any]:
        wait_until(lambda: self.up.events or self.up.process.poll() is not None)
        return self.up.events[0]

    @property
    def address(self) -> str:
        (address,) = self.first["addresses"]
        return str(address)

    def code(self) -> str:
        """Another one that counts."""
        assert self.first
        invited = self.run("invite", "--cluster", self.state, "--json")
        return str(json.loads(invited.stdout)["code"])

    def run(self, *arguments: object, program: tuple[str, ...] = ("-m", "shardnet.launch.cli"), text: str = "") -> Done:
        command = [*WARM_PYTHON, *program, *map(str, arguments)]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)

    def join(self, code: str, *options: object, program: tuple[str, ...] = ("-m", "shardnet.launch.cli")) -> Done:
        where = ("--cluster", self.folder / "there", "--source-only")
        return self.run("join", code, *where, *options, program=program)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, warm_python: None) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("hosts")
    running = Cluster(folder, save_text_model(folder / "model"))
    yield running
    assert running.first, "before that, a signal may find it without a handler"
    running.up.process.send_signal(signal.SIGINT)
    assert running.up.process.wait(30) in (0, 130), "130 where its model was not looked for yet"


def is_one_sentence(done: Done, code: int, said: str) -> None:
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert done.stderr.startswith("shardnet: ") and done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--address", "127.0.0.1:1"), 1, "No cluster answers (127.0.0.1:1: Connection refused). Look whether it runs"),
        (("--address", "127.0.0.1"), 2, "An address is host:port, such as"),
        (("--address", "no.such.host.invalid:1"), 1, "No cluster answers (no.such.host.invalid:1: "),
        (("--listen", ""), 2, "--listen must not be empty"),
        (("--name", "@me"), 2, "--name must be"),
    ],
    ids=["nobody", "no port", "no such host", "listens nowhere", "no name"],
)
def test_an_address_or_a_name_that_is_none(cluster: Cluster, options: tuple[str, ...], code: int, said: str) -> None:
    given = options if options[0] == "--address" else ("--address", cluster.address, *options)
    is_one_sentence(cluster.join("7-harbour-green", *given), code, said)


def test_codes_that_are_none_wrong_or_used(cluster: Cluster, tmp_path: Path) -> None:
    where = ("--address", cluster.address)
    is_one_sentence(cluster.join("harbour", *where), 2, "A code is a number and two words, such as 7-harbour-green")
    is_one_sentence(cluster.join("7-harbour-blue", *where), 2, "No code has the word 'blue'")
    slot, _, words = cluster.code().partition("-")
    wrong = "acorn-album" if words != "acorn-album" else "album-acorn"
    is_one_sentence(
        cluster.join(f"{slot}-{wrong}", *where), 1, "The code is not the one that the cluster's screen shows"
    )
    is_one_sentence(cluster.join(f"{slot}-{words}", *where), 1, "each can be tried once, and it was")
    code = cluster.code()
    used = TellingCommand([*COMMAND, "join", code, *where, "--cluster", tmp_path, "--source-only", "--json"])
    wait_until(lambda: used.told("linked") or used.process.poll() is not None)
    is_one_sentence(cluster.join(code, *where), 1, "This invitation was used")
    again = cluster.run("join", code, *where, "--cluster", tmp_path)
    is_one_sentence(again, 2, "runs in")
    used.end()
    again = cluster.run("join", code, *where, "--cluster", tmp_path)
    is_one_sentence(again, 2, "This machine has joined a cluster before, as")


def test_a_name_that_another_machine_has(cluster: Cluster, tmp_path: Path) -> None:
    where = ("--address", cluster.address, "--name", "twin", "--source-only", "--json")
    first = TellingCommand([*COMMAND, "join", cluster.code(), *where, "--cluster", tmp_path / "one"])
    wait_until(lambda: first.told("linked") or first.process.poll() is not None)
    code = cluster.code()
    second = cluster.run("join", code, *where[:-1], "--cluster", tmp_path / "two")
    is_one_sentence(second, 1, "Another device of the cluster has that name. Choose another one with --name")
    third = TellingCommand([*COMMAND, "join", code, *where, "--cluster", tmp_path / "two", "--name", "other"])
    wait_until(lambda: third.told("linked") or third.process.poll() is not None)
    assert third.told("linked"), "the invitation was not used up"
    first.end()
    third.end()


def test_a_clock_that_is_a_day_ahead(cluster: Cluster) -> None:
    done = cluster.join(cluster.code(), "--address", cluster.address, program=("-c", A_DAY_AHEAD))
    is_one_sentence(done, 1, "This device's clock is 24.0 hours ahead of the cluster's")


def test_a_disk_that_is_full(cluster: Cluster) -> None:
    done = cluster.join(cluster.code(), "--address", cluster.address, program=("-c", FULL_DISK))
    is_one_sentence(done, 2, "Make room")


def why_no_small_disk() -> str | None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return "a disk of its own needs root"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True
    )
    return tried.stderr if tried.returncode else None


@pytest.mark.root
@pytest.mark.skipif(why_no_small_disk() is not None, reason="a disk of its own needs root")
def test_a_cluster_on_a_disk_that_is_full(cluster: Cluster, tmp_path: Path) -> None:
    up = [
        sys.executable,
        "-m",
        "shardnet",
        "up",
        "--no-device",
        "--model",
        cluster.folder / "model",
        "--state",
        tmp_path / "d",
    ]
    script = f"mount -t tmpfs -o size=4k tmpfs {tmp_path}; echo x >{tmp_path}/f; exec {shlex.join(map(str, up))}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=200, check=False
    )
    is_one_sentence(done, 2, "cannot be written: No space left on device. Make room there, or name another folder")


def test_a_port_in_use(cluster: Cluster, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = ("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        up = cluster.run("up", "--no-device", *listen, "--state", tmp_path, "--model", cluster.folder / "model")
        is_one_sentence(up, 2, "Address already in use. Choose another port, or 0 for any")
        joining = ("--address", cluster.address, "--source-only", "--cluster", tmp_path / "there")
        is_one_sentence(cluster.run("join", cluster.code(), *joining, *listen), 2, "Address already in use. Choose")


def test_a_cluster_of_this_machine_only_invites_nobody(cluster: Cluster, tmp_path: Path) -> None:
    options = ("--no-device", "--listen", "none", "--state", tmp_path, "--model", cluster.folder / "model", "--json")
    up = TellingCommand([*COMMAND, "up", *options])
    wait_until(lambda: up.events or up.process.poll() is not None)
    for command in ("invite", "trust"):
        done = cluster.run(command, "--cluster", tmp_path)
        is_one_sentence(done, 2, "is open to this machine only. Start it without --listen none")
    up.end()


def test_a_device_of_the_same_machine_needs_no_code(cluster: Cluster, tmp_path: Path) -> None:
    """Its port could be reached from nowhere: on the loopback of one machine it is there once."""
    code = cluster.code()
    for address in (cluster.address, cluster.address.replace("127.0.0.1", "localhost")):
        done = cluster.run("join", code, "--address", address, "--cluster", tmp_path)
        is_one_sentence(done, 2, f"The cluster at {address} is on this machine, where a device joins it without a code")


def test_a_cluster_that_does_not_answer_is_looked_for_and_said_so(cluster: Cluster, tmp_path: Path) -> None:
    """A device that has joined before, whose cluster is not there now: once, nothing at all was said."""
    own = Cluster(tmp_path, cluster.folder / "model")
    where, there = ("--address", own.address), ("--cluster", tmp_path / "there", "--listen", "none", "--json")
    first = TellingCommand([*COMMAND, "join", own.code(), *where, *there, "--source-only", "--name", "there"])
    wait_until(lambda: first.told("linked") or first.process.poll() is not None)
    first.end()
    own.up.process.send_signal(signal.SIGINT)
    assert own.up.process.wait(30) == 0
    waiting = TellingCommand([*COMMAND, "join", *there])
    wait_until(lambda: waiting.events or waiting.process.poll() is not None)
    assert waiting.events[0]["event"] == "looking"
    assert "The cluster does not answer. there looks for it until Ctrl-C" in waiting.events[0]["text"]
    waiting.process.send_signal(signal.SIGINT)
    assert waiting.process.wait(30) == 0


def test_nobody_is_shut_out_who_is_not_there(cluster: Cluster) -> None:
    done = cluster.run("trust", "--revoke", "nobody", "--cluster", cluster.state)
    is_one_sentence(done, 2, "No device with a certificate is called 'nobody'")


@pytest.mark.parametrize("command", ["invite", "trust", "status", "top", "chat"])
def test_no_cluster(cluster: Cluster, command: str, tmp_path: Path) -> None:
    done = cluster.run(command, "--cluster", tmp_path / "nowhere")
    is_one_sentence(done, 1, f"No cluster runs in {tmp_path}/nowhere. Start one: shardnet up")


def test_a_chat_with_no_model(cluster: Cluster) -> None:
    is_one_sentence(cluster.run("chat", "--cluster", cluster.state, text="hello\n"), 3, "none is there")


@pytest.mark.skipif(os.geteuid() != 0, reason="a machine without a network needs root here")
def test_no_route(cluster: Cluster, tmp_path: Path) -> None:
    command = ["unshare", "--net", sys.executable, "-m", "shardnet", "join", "7-harbour-green"]
    for options, said in ((("--address", "192.0.2.1:29500"), "Network is unreachable"), ((), "No cluster was found")):
        done = subprocess.run(
            [*command, *options, "--cluster", str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
        )
        is_one_sentence(done, 1, said)
