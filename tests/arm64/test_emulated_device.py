"""An arm64 device in a ring, *emulated* (QEMU, user mode), with a torch of its own. `make test-arm64`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from emulated_root import PACKAGES, entered, install, why_not
from namespaces import Namespaces
from own_wheel import build_wheel
from processes import wait_until
from telling_command import TellingCommand
from tiny_text_model import save_text_model

pytestmark = [pytest.mark.arm64, pytest.mark.timeout(1500)]
ROOT = Path(os.environ.get("ARM64_ROOT") or "~/.cache/shardnet-tests/arm64").expanduser()
OWN = "opt/shardnet"
ASK = ("--prompt", "the quick brown fox jumps over the lazy dog", "--max-new-tokens", "48", "--temperature", "0")
PORT = 29500
START_S = 600.0
"""Under emulation, importing torch alone takes a quarter of a minute."""


class Hosts:
    """Two x86-64 machines and an emulated arm64 one, each with a network of its own."""

    def __init__(self, folder: Path, ends: ExitStack) -> None:
        self._folder = folder
        self._ends = ends
        self._network = ends.enter_context(Namespaces(["laptop", "desk", "board"]))
        self.address = f"{self._network.address('laptop')}:{PORT}"

    def state(self, host: str) -> str:
        """Its state folder, as it is called there."""
        return "/mnt/state" if host == "board" else str(self._folder / host / "state")

    def command(self, host: str, *arguments: str) -> list[str]:
        """A command of shardnet as it runs on a host."""
        home = self._folder / host
        home.mkdir(exist_ok=True)
        if host == "board":
            path = f"PYTHONPATH=/{OWN}:/{PACKAGES}"
            return self._network.command(host, *entered(ROOT, home, path, "python3", "-m", "shardnet", *arguments))
        settings = (f"HOME={home}", f"TMPDIR={home}", f"SHARDNET_CACHE={home}/cache", "OMP_NUM_THREADS=1")
        return self._network.command(host, "env", *settings, sys.executable, "-m", "shardnet", *arguments)

    def start(self, host: str, *arguments: str) -> TellingCommand:
        """One that goes on, on a host."""
        command = TellingCommand(self.command(host, *arguments, "--json"))
        self._ends.callback(command.end if arguments[0] == "up" else command.kill)  # its gate would outlive it
        return command

    def join(self, host: str, *code: str) -> TellingCommand:
        where = ("--cluster", self.state(host), "--threads", "1")
        invited = (*code, "--address", self.address, "--name", host) if code else ()
        return self.start(host, "join", *invited, *where)

    def ask(self, *arguments: str) -> Any:
        """What a command on the laptop answers."""
        done = subprocess.run(self.command("laptop", *arguments), capture_output=True, text=True, timeout=START_S)
        logs = "\n".join(f"{log}: {log.read_text()}" for log in self._folder.glob("*/state/*.log"))
        assert done.returncode == 0, f"{done.stderr}\n{logs}"
        return json.loads(done.stdout.splitlines()[-1]) if "--json" in arguments else None


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if (reason := why_not(ROOT)) is not None:
        pytest.skip(reason)
    install(ROOT, build_wheel(tmp_path), OWN)
    with ExitStack() as ends:
        yield Hosts(tmp_path, ends)


def awaited(command: TellingCommand, event: str) -> dict[str, Any]:
    """The first event of a kind."""
    wait_until(lambda: command.told(event) or command.process.poll() is not None, START_S)
    told = command.told(event)
    assert told is not None, command.events
    return told


def answer(hosts: Hosts, model: Path) -> dict[str, Any]:
    """What the cluster says with the model over all of its devices."""
    state = hosts.state("laptop")
    hosts.ask("load", str(model), "--cluster", state, "--dtype", "float32", "--placement", "spread")
    told: dict[str, Any] = hosts.ask("generate", *ASK, "--cluster", state, "--json")
    assert {stage["device"] for stage in told["stages"]} == {"laptop", "desk", "board"}
    return told


def versions_of(hosts: Hosts, host: str) -> str:
    """Machine and torch of a host."""
    program = "import platform, torch; print(platform.machine(), torch.__version__)"
    command = hosts.command(host)
    place = command.index("-m")
    done = subprocess.run([*command[:place], "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def report(lines: Sequence[str]) -> None:
    print("", *lines, sep="\n  ")


def test_an_arm64_device_gives_the_tokens_of_one_process_and_comes_back(hosts: Hosts, tmp_path: Path) -> None:
    model = save_text_model(tmp_path / "model", num_blocks=6)
    alone = hosts.ask("generate", "--model", str(model), *ASK, "--devices", "1", "--dtype", "float32", "--json")
    kinds = {host: versions_of(hosts, host) for host in ("laptop", "board")}
    assert kinds["board"].startswith("aarch64 ")
    laptop = hosts.start(
        *("laptop", "up", "--model", str(model), "--dtype", "float32", "--name", "laptop", "--threads", "1"),
        *("--state", hosts.state("laptop"), "--listen", f"0.0.0.0:{PORT}"),
    )
    wait_until(lambda: laptop.events, START_S)
    assert "code" in laptop.events[0], laptop.events
    began_s = time.monotonic()
    board = hosts.join("board", laptop.events[0]["code"])
    awaited(board, "joined")
    joined_s = time.monotonic() - began_s
    awaited(hosts.join("desk", awaited(laptop, "invited")["code"]), "joined")
    first = answer(hosts, model)
    assert first["token_ids"] == alone["token_ids"]
    board.kill()
    awaited(laptop, "lost")
    began_s = time.monotonic()
    awaited(hosts.join("board"), "joined")
    back_s = time.monotonic() - began_s
    second = answer(hosts, model)
    assert second["token_ids"] == alone["token_ids"]
    at = " and ".join(f"{each['tokens_per_s']:.1f}" for each in (first, second))
    report(
        [
            f"x86-64: {kinds['laptop']}; emulated arm64: {kinds['board']}",
            *(f"{each['device']}: units {each['first_unit']}-{each['last_unit']}" for each in first["stages"]),
            f"the emulated device joined by its code after {joined_s:.0f} s, and after it was killed in {back_s:.0f} s",
            f"{len(first['token_ids'])} tokens are one process's, both times, at {at} tokens/s",
        ]
    )
