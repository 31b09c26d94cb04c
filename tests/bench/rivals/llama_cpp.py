"""llama.cpp as it measures itself: `llama-bench` and `llama-batched-bench`, alone or over its RPC servers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

START_S = 60.0
LOADED = ("warmup", "S_TG t/s")
"""In what they print when the model is loaded: `llama-bench`, and `llama-batched-bench`."""
PORT = 50_152
"""Of the first RPC server; the others follow."""


class RivalFailed(Exception):
    """One of its programs did not do what it was asked; the message is its last line."""


@dataclass(frozen=True)
class LlamaCpp:
    """How its benchmarks are called. Every turn is a process of its own, which loads the model and warms up first."""

    programs: Mapping[str, Path]
    model: Path
    before: tuple[str, ...] = ()
    """What stands before each command: the cores it keeps to, the namespace that it runs in."""
    arguments: tuple[str, ...] = ()
    """Where it computes: its RPC servers, and how many layers of its own it keeps."""
    hurry: Callable[[bool], None] = lambda is_loading: None
    """Told when it begins to load, which it does in each turn and over the network, and when that is done."""

    def decode_per_s(self, prompt: int, new: int) -> float:
        """Tokens per second of one session, at so many tokens of context."""
        return self._bench("-p", "0", "-n", str(new), "-d", str(prompt))

    def prefill_per_s(self, prompt: int) -> float:
        return self._bench("-p", str(prompt), "-n", "0")

    def sessions_per_s(self, num_sessions: int, prompt: int, new: int) -> float:
        """Tokens per second of all sessions together."""
        sizes = ["-npp", str(prompt), "-ntg", str(new), "-npl", str(num_sessions)]
        context = ["-c", str(num_sessions * (prompt + new))]
        said = self._ask("llama-batched-bench", *sizes, *context)
        heads, _, row = (line.strip("|").split("|") for line in said if line.startswith("|"))
        named = {head.strip(): float(cell) for head, cell in zip(heads, row, strict=True)}
        return named["S_TG t/s"]

    def _bench(self, *what: str) -> float:
        said = self._ask("llama-bench", *what, "-r", "1", "-o", "jsonl", "--progress")
        [told] = (json.loads(line) for line in said if line.startswith("{"))
        return float(told["avg_ts"])

    def _ask(self, program: str, *what: str) -> list[str]:
        """What it has printed, on both streams."""
        command = [*self.before, str(self.programs[program]), "-m", str(self.model), "-t", "1", *self.arguments, *what]
        said = []
        self.hurry(True)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if any(sign in line for sign in LOADED):
                    self.hurry(False)
                said.append(line.strip())
        self.hurry(False)
        if process.returncode:
            raise RivalFailed(f"{program} ended with {process.returncode}: {' '.join(said[-3:])}")
        return said


def over_servers(servers: Sequence[str], *, num_blocks: int, computes: bool) -> tuple[str, ...]:
    """The arguments by which it spreads the layers evenly over RPC servers.

    Args:
        servers: "HOST:PORT" of each.
        computes: whether who asks is a device, too, and keeps its share.
    """
    evenly = "/".join("1" for _ in servers)
    where = ("--rpc", ",".join(servers), "-ts", evenly)
    if not computes:
        return where
    num_others = round((num_blocks + 1) * len(servers) / (len(servers) + 1))
    return (*where, "-ngl", str(num_others))


@contextmanager
def served(program: Path, hosts: Sequence[str], before: Sequence[Sequence[str]], cache: Path) -> Iterator[list[str]]:
    """RPC servers of one thread each, at these addresses; they keep tensors in `cache`, and end with the block.

    Args:
        before: what stands before the command of each.
    """
    with ExitStack() as ends:
        servers = []
        environment = {**os.environ, "LLAMA_CACHE": str(cache)}
        for number, (host, words) in enumerate(zip(hosts, before, strict=True)):
            port = PORT + number
            end_with_us = ("setpriv", "--pdeathsig", "KILL")
            command = [*words, *end_with_us, str(program), "-H", host, "-p", str(port), "-t", "1", "-c"]
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            ends.callback(process.wait)
            ends.callback(process.kill)
            _wait_for(process, host, port)
            servers.append(f"{host}:{port}")
        yield servers


def _wait_for(process: subprocess.Popen[bytes], host: str, port: int) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection((host, port), 1.0).close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RivalFailed(f"the RPC server at {host}:{port} did not start: {error}") from error
            time.sleep(0.05)
