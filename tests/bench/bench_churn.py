"""What stays behind when devices come and go while answers are made: memory, threads, open files.

    python tests/bench/bench_churn.py [--cycles 500] [--memory-gib 0.45] [--settle 50]

Real processes of this machine: `shardnet up` with a device of its own, on which the embedded model does not fit alone,
and a source that asks again and again, greedy in float32. In each cycle another device joins, and the one beside the
first is told to leave: what it holds is taken over, in the midst of an answer. Compared are the coordinator, its own
device and the source, after the first cycles, in which caches fill, and after the last. Prints a table; exit code 1
where a text differs, memory has grown by 5% or more, or there are more threads or open files than before.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil

import shardnet

sys.path.insert(0, str(Path(__file__).parents[1]))
from processes import wait_until
from telling_command import TellingCommand
from warm_python import WARM_PYTHON, warm_server

MODEL = "smollm2-135m-instruct"
COMMAND = ["-m", "shardnet.launch.cli"]
PROMPT = list(range(100, 400))
NUM_TOKENS = 40
LONGEST_S = 180.0
MOST_GROWTH = 0.05
REST_S = 12.0
"""By then connections to those that left are closed."""
LOOKS = 20
LOOK_EVERY_S = 0.1
SHOW_EVERY = 25


class Held(NamedTuple):
    """What a process has."""

    rss_bytes: int
    num_threads: int
    num_files: int
    """Sockets are among them."""


class Asking:
    """A source that asks again and again, and counts the texts that are not the first one."""

    def __init__(self, folder: Path) -> None:
        self.num_answers = 0
        self.num_wrong = 0
        self.errors: list[str] = []
        self._is_there, self._is_over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(folder,), daemon=True)
        self._thread.start()

    def _run(self, folder: Path) -> None:
        try:
            with shardnet.Cluster.connect(folder) as cluster:
                expected = None
                self._cluster = cluster
                self._is_there.set()
                while not self._is_over.is_set():
                    [answer] = cluster.model.generate([PROMPT], max_new_tokens=NUM_TOKENS)
                    expected = expected or answer.token_ids
                    self.num_wrong += answer.token_ids != expected
                    self.num_answers += 1
        except shardnet.errors.ShardnetError as error:
            self.errors.append(str(error))

    def leave(self, device: str) -> None:
        """Tell a device to leave, in the midst of an answer."""
        self._is_there.wait(LONGEST_S)
        if self.errors:
            raise SystemExit(f"{self.errors[0]}")
        self._cluster.leave(device)

    def end(self) -> None:
        self._is_over.set()
        self._thread.join(LONGEST_S)


class Churn:
    """A cluster whose second device is another one after each cycle."""

    def __init__(self, folder: Path, memory_gib: float) -> None:
        self.folder = folder
        self._options = ("--threads", 1, "--memory-gib", memory_gib)
        self._number = 1
        model = ("--model", MODEL, "--dtype", "float32", "--standby", "cold")
        up = ("up", "--state", folder, *model, *self._options, "--name", "one", "--listen", "none", "--json")
        self.up = TellingCommand([sys.executable, *COMMAND, *up])
        try:
            wait_until(lambda: self.up.events, LONGEST_S)
            self._second = self._join()
            wait_until(lambda: self.up.told("loaded"), LONGEST_S)
        except BaseException:
            self.up.end()
            raise

    def _join(self) -> TellingCommand:
        self._number += 1
        join = ("join", "--cluster", self.folder, *self._options, "--name", self._name, "--json")
        device = TellingCommand([*WARM_PYTHON, *COMMAND, *join])
        wait_until(lambda: device.told("joined"), LONGEST_S)
        return device

    @property
    def _name(self) -> str:
        return f"device-{self._number}"

    def cycle(self, asking: Asking) -> None:
        """Another device joins, and the one before it leaves."""
        leaving, before = self._name, self._second
        self._second = self._join()
        asking.leave(leaving)
        before.process.wait(LONGEST_S)

    def held(self) -> dict[str, Held]:
        """What those processes have that stay."""
        up = psutil.Process(self.up.process.pid)
        [device] = [each for each in up.children(recursive=True) if "shardnet.device.process" in each.cmdline()]
        processes = {"coordinator": up, "its device": device, "source": psutil.Process()}
        return {name: _held_by(process) for name, process in processes.items()}

    def end(self) -> None:
        self._second.end()
        self.up.end()


def _held_by(process: psutil.Process) -> Held:
    return Held(process.memory_info().rss, process.num_threads(), process.num_fds())


def least(looks: Sequence[Held]) -> Held:
    """Of several looks the least of each: what is there for a moment is not kept."""
    return Held(*map(min, zip(*looks, strict=True)))


def looked(churn: Churn) -> dict[str, Held]:
    time.sleep(REST_S)
    looks = []
    for _ in range(LOOKS):
        looks.append(churn.held())
        time.sleep(LOOK_EVERY_S)
    return {name: least([look[name] for look in looks]) for name in looks[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=500)
    parser.add_argument("--memory-gib", type=float, default=0.45)
    parser.add_argument("--settle", type=int, default=50, help="cycles before the first look")
    asked = parser.parse_args()
    with ExitStack() as resources:
        resources.enter_context(warm_server())
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory()), "state")
        churn = Churn(folder, asked.memory_gib)
        resources.callback(churn.end)
        asking = Asking(folder)
        resources.callback(asking.end)
        before = {}
        began_s = time.monotonic()
        for number in range(1, asked.settle + asked.cycles + 1):
            churn.cycle(asking)
            if number == asked.settle:
                before = looked(churn)
            if number % SHOW_EVERY == 0:
                seconds = time.monotonic() - began_s
                print(f"{number} cycles, {asking.num_answers} answers, {seconds:.0f} s: {churn.held()}", flush=True)
        after = looked(churn)
        num_moves = sum(each.get("event") == "moved" for each in churn.up.events)
        asking.end()
    print(f"\n{asked.cycles} cycles, {num_moves} of {number} in which layers moved, {asking.num_answers} answers")
    print(f"{asking.num_wrong} of them wrong; errors: {asking.errors or 'none'}\n")
    print("| process | MiB before | after | growth | threads | open files |")
    print("|---|--:|--:|--:|--:|--:|")
    is_good = not asking.num_wrong and not asking.errors
    for name, was in before.items():
        now = after[name]
        growth = now.rss_bytes / was.rss_bytes - 1
        is_good &= growth < MOST_GROWTH and now.num_threads <= was.num_threads and now.num_files <= was.num_files
        threads, files = f"{was.num_threads} to {now.num_threads}", f"{was.num_files} to {now.num_files}"
        sizes = f"{was.rss_bytes / 2**20:.0f} | {now.rss_bytes / 2**20:.0f}"
        print(f"| {name} | {sizes} | {growth:+.1%} | {threads} | {files} |")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
