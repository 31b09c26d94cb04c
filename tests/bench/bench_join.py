"""How long a person waits who types `shardnet join CODE`, on a machine on which everything is installed.

    python tests/bench/bench_join.py [--turns N] [--model M] [--json FILE]

A real `shardnet up` (which coordinates only) and a real `shardnet join`, each on a host of its own: a network namespace
with files of its own, so this needs root. By code (the local network is asked), by code with the address, and again
without a code, as after a reboot. Seconds
from the start of the process until it says that it has joined, and of `shardnet join --help`; and the processor time
that it and its gate took until then, which is the better number on a machine that is busy. Bars (issue 10): `join
--help` answers in under 1 s, `join` is ready in under 10 s.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from namespaces import Namespaces

COMMAND = (sys.executable, "-m", "shardnet")
LAPTOP, PHONE = "laptop", "phone"
MODEL = "smollm2-135m-instruct"
LONGEST_S = 180.0
BARS_S = {"join --help": 1.0, "join CODE": 10.0, "join CODE --address": 10.0, "join": 10.0}


def environment(home: Path) -> dict[str, str]:
    """Of a machine of its own, as far as files go."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    own = {"HOME": str(home), "TMPDIR": str(home), "SHARDNET_CACHE": str(home / "cache")}
    return {**others, **own}


class Seconds(NamedTuple):
    """How long something took."""

    wall_s: float
    processor_s: float


class Told:
    """A command, and the lines of JSON that it says, each with when it came."""

    def __init__(self, network: Namespaces, host: str, home: Path, *arguments: str) -> None:
        home.mkdir(exist_ok=True)
        command = network.command(host, *COMMAND, *arguments)
        self.began_s = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(home))

    def lines(self) -> Iterator[tuple[float, dict[str, Any]]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield time.monotonic() - self.began_s, json.loads(line)
        raise SystemExit(f"{self.process.args} has ended")

    def until(self, event: str) -> Seconds:
        """From its start to that event."""
        at_s = next(at_s for at_s, told in self.lines() if told.get("event") == event)
        there = psutil.Process(self.process.pid)
        times = [each.cpu_times() for each in (there, *there.children(recursive=True))]
        gone = there.cpu_times()
        own_s = sum(each.user + each.system for each in times)
        return Seconds(at_s, own_s + gone.children_user + gone.children_system)

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(LONGEST_S)


@contextmanager
def running(told: Told) -> Iterator[Told]:
    try:
        yield told
    finally:
        told.end()


def invited(home: Path, state: Path) -> str:
    """Another code."""
    command = [*COMMAND, "invite", "--cluster", str(state), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(home))
    return str(json.loads(done.stdout)["code"])


def help_s(home: Path) -> Seconds:
    began_s, before = time.monotonic(), os.times()
    subprocess.run([*COMMAND, "join", "--help"], capture_output=True, check=True, env=environment(home))
    now = os.times()
    used_s = now.children_user + now.children_system - before.children_user - before.children_system
    return Seconds(time.monotonic() - began_s, used_s)


def turn(network: Namespaces, folder: Path, number: int, state: Path, address: str) -> dict[str, Seconds]:
    """Everything once, each on a new machine."""
    laptop, seconds = folder / "laptop", {"join --help": help_s(folder)}
    for what, options in (("join CODE", ()), ("join CODE --address", ("--address", address))):
        home = folder / f"{what.replace(' ', '-')}-{number}"
        where = ("--cluster", str(home / "state"), "--json", "--name", f"device{len(seconds)}-{number}")
        with running(Told(network, PHONE, home, "join", invited(laptop, state), *options, *where)) as joining:
            seconds[what] = joining.until("joined")
    with running(Told(network, PHONE, home, "join", *where)) as joining:
        seconds["join"] = joining.until("joined")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, metavar="N", help="of which the median counts (default: 3)")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the seconds of all turns there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shardnet-join-") as scratch, Namespaces([LAPTOP, PHONE]) as network:
        folder = Path(scratch)
        state = folder / "laptop" / "state"
        up = Told(
            network,
            LAPTOP,
            folder / "laptop",
            "up",
            "--no-device",
            "--state",
            str(state),
            "--model",
            asked.model,
            "--json",
        )
        with running(up):
            _, first = next(up.lines())
            turns = [turn(network, folder, number, state, first["addresses"][0]) for number in range(asked.turns)]
    show(turns)
    if asked.json is not None:
        asked.json.write_text(json.dumps(turns, indent=1) + "\n", encoding="utf-8")


def show(turns: Sequence[dict[str, Seconds]]) -> None:
    print(f"{'':22}{'median s':>10}{'least':>8}{'most':>8}{'bar':>8}{'processor s':>14}")
    for what in turns[0]:
        all_s = [each[what].wall_s for each in turns]
        used_s = median(each[what].processor_s for each in turns)
        print(f"{what:22}{median(all_s):10.2f}{min(all_s):8.2f}{max(all_s):8.2f}{BARS_S[what]:8.0f}{used_s:14.2f}")


if __name__ == "__main__":
    main()
