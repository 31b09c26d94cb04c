"""A cluster over several hosts, started from the command line: each is a network namespace with files of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from namespaces import Namespaces, why_not
from processes import wait_until
from tiny_text_model import save_text_model

PROMPT = "the quick brown fox jumps over the lazy dog"
PORT = 29500
"""Where a cluster listens if nothing else is asked for."""
START_S = 120.0


class Hosts:
    """The laptop coordinates; the others join it."""

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
        """By the code alone: where the cluster is, the network says, unless there is a router between."""
        address = f"{self.network.address('laptop')}:{PORT}"
        there = ("--address", address) if self.network.is_behind_router(host) else ()
        where = (*there, "--cluster", str(self.state(host)), "--name", host)
        return self.start(host, "join", code, *where, "--json", *options)

    def addresses(self, host: str) -> list[int]:
        """The ports on which the gate of a host says that it can be dialled."""
        said = (self.state(host) / "gate.log").read_text().rpartition(" a gate begins")[2]
        return sorted({int(port) for port in re.findall(r"listens at \S+:(\d+)", said)})

    def ask(self, host: str, *arguments: str) -> Any:
        """What a command answers with --json."""
        command = self.start(host, *arguments, "--cluster", str(self.state(host)), "--json")
        assert command.process.wait(START_S) == 0, command.said()
        return json.loads(command.lines()[-1])

    def alone(self, host: str, num_tokens: int) -> dict[str, Any]:
        """What one process says, on a host that is in no cluster."""
        command = self.start(
            *(host, "generate", "--model", str(self.model), "--prompt", PROMPT, "--devices", "1"),
            *("--dtype", "float32", "--max-new-tokens", str(num_tokens), "--temperature", "0", "--json"),
        )
        assert command.process.wait(START_S) == 0, command.said()
        told: dict[str, Any] = json.loads(command.lines()[-1])
        return told


@contextmanager
def hosts_of(folder: Path, *names: str) -> Iterator[Hosts]:
    """Hosts of these names, and a small model; skips a test where there can be none."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    model = save_text_model(folder / "model", intermediate=1024)
    with ExitStack() as ends:
        network = ends.enter_context(Namespaces(names))
        yield Hosts(folder, model, network, ends)


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


def holders(status: dict[str, Any]) -> set[str]:
    """The devices that hold units."""
    return {member["name"] for member in status["members"] if member["units"]}


def can_dial(hosts: Hosts, dialler: str, address: str, port: int) -> bool:
    """Whether one host gets a connection to an address."""
    program = (
        "import socket, sys\n"
        "with socket.socket() as probe:\n"
        "    probe.settimeout(1)\n"
        "    print(probe.connect_ex((sys.argv[1], int(sys.argv[2]))))\n"
    )
    command = hosts.network.command(dialler, sys.executable, "-S", "-c", program, address, str(port))
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "0"
