"""What it costs that the coordinator of a cluster is killed: whether every text stays as it is, and how long it takes.

    python tests/bench/bench_coordinator.py [--runs 20] [--tokens 120] [--seed 0]

Real processes of this machine, the embedded model in float32 over three devices, two sources, one of them sampled with
a repetition penalty. `shardnet up` is killed by SIGKILL at moments drawn at random, and started again at once. Measured
is how long each source waited for a token at most from then on, beside how long that took in an undisturbed answer, and
what the devices have read from disk meanwhile. Prints a table; exit code 1 where a text differs or does not end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

import shardnet
from shardnet.progress import silent

sys.path.insert(0, str(Path(__file__).parents[1]))
from telling_command import TellingCommand

MODEL = "smollm2-135m-instruct"
COMMAND = [sys.executable, "-m", "shardnet.launch.cli"]
PROMPT = list(range(100, 400))
ASKED: tuple[dict[str, Any], ...] = ({}, {"temperature": 0.9, "top_k": 40, "repetition_penalty": 1.1, "seed": 5})
LONGEST_S = 180.0


def start(folder: Path) -> TellingCommand:
    """`shardnet up` in a folder."""
    options = ("--state", folder, "--model", MODEL, "--dtype", "float32", "--placement", "spread")
    return TellingCommand([*COMMAND, "up", *options, "--threads", "1", "--name", "one", "--listen", "none", "--json"])


class Source:
    """A process that asks the cluster, again and again."""

    def __init__(self, folder: Path, which: int, num_tokens: int) -> None:
        command = [
            sys.executable,
            __file__,
            "--source",
            str(folder),
            "--which",
            str(which),
            "--tokens",
            str(num_tokens),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.came_s: list[float] = []
        self.ids: list[int] | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self) -> None:
        self.came_s, self.ids = [], None
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def answer(self) -> list[int]:
        ids: list[int] = until(lambda: self.ids)
        return ids

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "ids" in told:
                self.ids = told["ids"]
            else:
                self.came_s.append(told["at_s"])

    def end(self) -> None:
        self._process.kill()


def be_source(folder: Path, which: int, num_tokens: int) -> None:
    """Answer to each line on standard input with the times of the pieces, and all ids."""
    with shardnet.Cluster.connect(folder) as cluster:
        model = cluster.model
        for _ in sys.stdin:
            stream = model.stream(PROMPT, max_new_tokens=num_tokens, **ASKED[which])
            for _ in stream:
                print(json.dumps({"at_s": time.monotonic()}), flush=True)
            print(json.dumps({"ids": stream.result.token_ids}), flush=True)


def until(look: Any) -> Any:
    deadline_s = time.monotonic() + LONGEST_S
    while not (found := look()):
        if time.monotonic() > deadline_s:
            raise TimeoutError("that takes too long")
        time.sleep(0.002)
    return found


def read_bytes() -> int:
    """What the devices have read by now."""
    devices = [
        each
        for each in psutil.process_iter(["cmdline"])
        if {"shardnet.device.process", "join"} & set(each.info["cmdline"] or ()) and each.pid != os.getpid()
    ]
    return sum(each.io_counters().read_chars for each in devices)


class Bed:
    """The cluster and its sources."""

    def __init__(self, folder: Path, num_tokens: int, resources: ExitStack) -> None:
        self.folder = folder
        self.up = start(folder)
        resources.callback(self.end)
        until(lambda: self.up.events)
        self._joined = [self._join(name) for name in ("two", "three")]
        with shardnet.Cluster.connect(folder, num_devices=3, progress=silent) as cluster:
            cluster.load(MODEL, dtype="float32", placement="spread", progress=silent)
        self.sources = [Source(folder, which, num_tokens) for which in range(len(ASKED))]

    def _join(self, name: str) -> subprocess.Popen[bytes]:
        command = [*COMMAND, "join", "--cluster", str(self.folder), "--threads", "1", "--name", name]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def ask(self) -> tuple[list[list[int]], float]:
        """What an undisturbed run answers, and how long it takes."""
        began_s = time.monotonic()
        for source in self.sources:
            source.ask()
        return [source.answer() for source in self.sources], time.monotonic() - began_s

    def strike(self, after_s: float) -> tuple[list[list[int]], list[float], str]:
        """Ask, kill the coordinator, and start it again: the texts, the longest waits, what it says."""
        for source in self.sources:
            source.ask()
        time.sleep(after_s)
        self.up.kill()
        killed_s = time.monotonic()
        self.up = start(self.folder)
        texts = [source.answer() for source in self.sources]
        told = until(lambda: self.up.told("resumed"))["text"]
        return texts, self.longest_waits(killed_s), told

    def longest_waits(self, since_s: float = 0.0) -> list[float]:
        """Of each source, between two tokens of its last answer."""
        pairs = (list(itertools.pairwise(source.came_s)) for source in self.sources)
        return [max((came - before for before, came in each if came > since_s), default=0.0) for each in pairs]

    def end(self) -> None:
        self.up.end()
        for process in self._joined:
            process.kill()
        for source in self.sources:
            source.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--which", type=int, default=0)
    asked = parser.parse_args()
    if asked.source is not None:
        be_source(asked.source, asked.which, asked.tokens)
        return 0
    chance = random.Random(asked.seed)
    num_wrong, waits_s, read = 0, [], []
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory()), "state")
        bed = Bed(folder, asked.tokens, resources)
        bed.ask()  # until then the sources start, and what is kept ready is loaded
        expected, whole_s = bed.ask()
        calm_s = max(bed.longest_waits())
        for run in range(asked.runs):
            after_s = chance.uniform(0, 0.8 * whole_s)
            before = read_bytes()
            texts, run_waits_s, told = bed.strike(after_s)
            read.append(read_bytes() - before)
            num_wrong += texts != expected
            waits_s += run_waits_s
            shown = ", ".join(f"{wait_s:.2f}" for wait_s in run_waits_s)
            print(f"run {run + 1}: killed after {after_s:.2f} of {whole_s:.1f} s; longest waits {shown} s; {told}")
    print(
        f"\n| texts wrong | longest wait, s: median (most), of {len(waits_s)} | undisturbed | read by devices, most |"
    )
    print("|--:|--:|--:|--:|")
    spread = f"{statistics.median(waits_s):.2f} ({max(waits_s):.2f})"
    print(f"| {num_wrong} of {asked.runs} | {spread} | {calm_s:.2f} | {max(read) / 2**20:.1f} MiB |")
    return 1 if num_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
