"""A cluster over several hosts, from the command line: each is a network namespace with files of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from namespaces import Namespaces, why_not
from processes import wait_until
from tiny_text_model import save_text_model

pytestmark = [pytest.mark.root, pytest.mark.timeout(290)]
PROMPT = "the quick brown fox jumps over the lazy dog"
PORT = 29500
"""Where a cluster listens if nothing else is asked for."""
NUM_LONG = 400
LONG = ("--prompt", PROMPT, "--max-new-tokens", str(NUM_LONG), "--temperature", "0")
START_S = 120.0
HALF_GIB = "0.002"
"""Room for more than half of the model, and not for all of it."""


class Hosts:
    """A laptop that coordinates, a phone that has joined it, and a desk that only asks."""

    def __init__(self, folder: Path, model: Path, network: Namespaces, ends: ExitStack) -> None:
        self.folder = folder
        self.model = model
        self.network = network
        self._ends = ends

    def state(self, host: str) -> Path:
        return self.folder / host / "state"

    def start(self, host: str, *arguments: str) -> Command:
        home = self.folder / host
        home.mkdir(exist_ok=True)
        command = Command(self.network.command(host, sys.executable, "-m", "shardnet", *arguments), home)
        self._ends.callback(command.end)
        return command

    def up(self, *options: str) -> Command:
        """On the laptop. The code is the first thing that it says."""
        state = str(self.state("laptop"))
        return self.start(
            *("laptop", "up", "--model", str(self.model), "--name", "laptop", "--state", state, "--json"),
            *("--dtype", "float32", *options),
        )

    def join(self, host: str, code: str, *options: str) -> Command:
        """By the code alone: where the cluster is, the network says."""
        return self.start(host, "join", code, "--cluster", str(self.state(host)), "--name", host, "--json", *options)

    def addresses(self, host: str) -> list[int]:
        """The ports on which the gate of a host says that it can be dialled."""
        said = (self.state(host) / "gate.log").read_text()
        return sorted({int(port) for port in re.findall(r"listens at \S+:(\d+)", said)})

    def ask(self, host: str, *arguments: str) -> Any:
        """What a command answers with --json."""
        command = self.start(host, *arguments, "--cluster", str(self.state(host)), "--json")
        assert command.process.wait(START_S) == 0, command.said()
        return json.loads(command.lines()[-1])


class Command:
    """One that goes on, and what it has said."""

    def __init__(self, command: list[str], home: Path) -> None:
        self._out = home / f"out-{time.monotonic_ns()}"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("XDG_")},
            "HOME": str(home),
            "TMPDIR": str(home),
            "SHARDNET_CACHE": str(home / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        with open(self._out, "wb") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True
            )

    def said(self) -> str:
        return self._out.read_text()

    def lines(self) -> list[str]:
        return [line for line in self.said().splitlines() if line.startswith(("{", "["))]

    def wait_for(self, event: str, **fields: object) -> dict[str, Any]:
        """The first event of that name and with these fields."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            assert self.process.poll() is None, self.said()
            told = map(json.loads, self.lines())
            found[:] = [each for each in told if each.get("event") == event and fields.items() <= each.items()]
            return bool(found)

        wait_until(look, START_S)
        return found[0]

    def first(self) -> dict[str, Any]:
        """What it says first."""
        wait_until(lambda: self.lines() or self.process.poll() is not None, START_S)
        assert self.lines(), self.said()
        told: dict[str, Any] = json.loads(self.lines()[0])
        return told

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    model = save_text_model(tmp_path / "model", intermediate=1024)
    with ExitStack() as ends:
        network = ends.enter_context(Namespaces(["laptop", "phone", "desk"]))
        yield Hosts(tmp_path, model, network, ends)


def alone(hosts: Hosts, num_tokens: int) -> dict[str, Any]:
    """What one process says, on a host that is in no cluster."""
    command = hosts.start(
        *("desk", "generate", "--model", str(hosts.model), "--prompt", PROMPT, "--devices", "1", "--dtype", "float32"),
        *("--max-new-tokens", str(num_tokens), "--temperature", "0", "--json"),
    )
    assert command.process.wait(START_S) == 0, command.said()
    told: dict[str, Any] = json.loads(command.lines()[-1])
    return told


def test_three_hosts_answer_as_one_and_nothing_can_be_read_between_them(hosts: Hosts) -> None:
    expected = alone(hosts, 24)
    capture = hosts.network.capture()
    laptop = hosts.up("--memory-gib", HALF_GIB)
    phone = hosts.join("phone", laptop.first()["code"], "--memory-gib", HALF_GIB)
    phone.wait_for("joined")
    code = laptop.wait_for("invited")["code"]
    hosts.join("desk", code, "--source-only").wait_for("linked")
    hosts.ask("desk", "status")
    wait_until(lambda: {"laptop", "phone"} <= holders(hosts.ask("desk", "status")), START_S)
    ask = ("generate", "--prompt", PROMPT, "--max-new-tokens", "24", "--temperature", "0")
    for host in ("desk", "phone", "laptop"):
        answer = hosts.ask(host, *ask)
        assert answer["token_ids"] == expected["token_ids"]
        assert {stage["device"] for stage in answer["stages"]} == {"laptop", "phone"}
    trusted = {each["name"]: each["is_linked"] for each in hosts.ask("phone", "trust")}
    assert trusted == {"coordinator": False, "phone": True, "desk": True}
    assert open_ports(hosts, "desk", "laptop") == [PORT]
    (at_phone,) = hosts.addresses("phone")
    assert open_ports(hosts, "desk", "phone") == [at_phone]
    seen = capture.close()
    assert len(seen) > 50_000
    for secret in (PROMPT, expected["text"], "token_ids", "start_session", str(hosts.model)):
        assert secret.encode() not in seen


def test_a_network_that_blinks_in_the_midst_of_an_answer_changes_no_token(hosts: Hosts) -> None:
    """Also where the phone comes back under another address."""
    expected = alone(hosts, NUM_LONG)
    laptop = hosts.up("--memory-gib", HALF_GIB)
    phone = hosts.join("phone", laptop.first()["code"], "--memory-gib", HALF_GIB)
    phone.wait_for("holds")
    laptop.wait_for("loaded")
    asking = hosts.start("laptop", "generate", *LONG, "--cluster", str(hosts.state("laptop")), "--json")
    laptop.wait_for("session began")
    for number, seconds in enumerate((0.3, 5.0, 1.0)):
        assert asking.process.poll() is None, "it should still be answering"
        hosts.network.unplug("phone")
        time.sleep(seconds)
        if number == 1:
            hosts.network.move("phone", "10.78.0.99")
        hosts.network.plug_in_again("phone")
        time.sleep(1.0)
    assert asking.process.wait(START_S) == 0, asking.said()
    assert json.loads(asking.lines()[-1])["token_ids"] == expected["token_ids"]
    told = [json.loads(line)["event"] for line in laptop.lines()[1:]]
    assert "lost" not in told and "left" not in told
    assert phone.process.poll() is None


def holders(status: dict[str, Any]) -> set[str]:
    return {member["name"] for member in status["members"] if member["units"]}


def open_ports(hosts: Hosts, scanner: str, host: str) -> list[int]:
    """All ports of a host that another one can connect to."""
    program = (
        "import socket, sys\n"
        "found = []\n"
        "for port in range(1, 65536):\n"
        "    with socket.socket() as probe:\n"
        "        probe.settimeout(2)\n"
        "        if probe.connect_ex((sys.argv[1], port)) == 0: found.append(port)\n"
        "print(found)\n"
    )
    command = hosts.network.command(scanner, sys.executable, "-c", program, hosts.network.address(host))
    found: list[int] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found
