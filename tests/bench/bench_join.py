"""How long a person waits who types `shardnet join CODE`, on a machine on which everything is installed.

    python tests/bench/bench_join.py [--turns N] [--listen HOST:PORT] [--json FILE]

A real `shardnet up` (which coordinates only) and, each in a home folder of its own, a real `shardnet join`: by code
with the address, by code without (the local network is asked), and again without a code, as after a reboot. Seconds
from the start of the process until it says that it has joined; until the coordinator says so; and of
`shardnet join --help`. Bars (issue 10): `join --help` answers in under 1 s, `join` is ready in under 10 s. Trust the
seconds on an idle machine alone.
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
from typing import Any

COMMAND = (sys.executable, "-m", "shardnet")
MODEL = "smollm2-135m-instruct"
LONGEST_S = 180.0
BARS_S = {"join --help": 1.0, "join CODE": 10.0, "join CODE --address": 10.0, "join": 10.0}


def environment(home: Path) -> dict[str, str]:
    """Of a machine of its own, as far as files go."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    own = {"HOME": str(home), "TMPDIR": str(home), "SHARDNET_CACHE": str(home / "cache")}
    return {**others, **own}


class Told:
    """A command, and the lines of JSON that it says, each with when it came."""

    def __init__(self, home: Path, *arguments: str) -> None:
        home.mkdir(exist_ok=True)
        self.began_s = time.monotonic()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, text=True, env=environment(home)
        )

    def lines(self) -> Iterator[tuple[float, dict[str, Any]]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield time.monotonic() - self.began_s, json.loads(line)
        raise SystemExit(f"{self.process.args} has ended")

    def until(self, event: str) -> float:
        """Seconds from its start to that event."""
        return next(at_s for at_s, told in self.lines() if told.get("event") == event)

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


def help_s(home: Path) -> float:
    began_s = time.monotonic()
    subprocess.run([*COMMAND, "join", "--help"], capture_output=True, check=True, env=environment(home))
    return time.monotonic() - began_s


def turn(folder: Path, number: int, state: Path, address: str) -> dict[str, float]:
    """Everything once, each on a new machine."""
    laptop, seconds = folder / "laptop", {"join --help": help_s(folder)}
    for what, options in (("join CODE", ()), ("join CODE --address", ("--address", address))):
        home = folder / f"{what.replace(' ', '-')}-{number}"
        where = ("--cluster", str(home / "state"), "--json", "--name", f"device{len(seconds)}-{number}")
        with running(Told(home, "join", invited(laptop, state), *options, *where)) as joining:
            seconds[what] = joining.until("joined")
    with running(Told(home, "join", *where)) as joining:
        seconds["join"] = joining.until("joined")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, metavar="N", help="of which the median counts (default: 3)")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the seconds of all turns there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shardnet-join-") as scratch:
        folder = Path(scratch)
        state = folder / "laptop" / "state"
        up = Told(folder / "laptop", "up", "--no-device", "--state", str(state), "--model", asked.model, "--json")
        with running(up):
            _, first = next(up.lines())
            turns = [turn(folder, number, state, first["addresses"][0]) for number in range(asked.turns)]
    show(turns)
    if asked.json is not None:
        asked.json.write_text(json.dumps(turns, indent=1) + "\n", encoding="utf-8")


def show(turns: Sequence[dict[str, float]]) -> None:
    print(f"{'':22}{'median s':>10}{'least':>8}{'most':>8}{'bar':>8}")
    for what in turns[0]:
        all_s = [each[what] for each in turns]
        print(f"{what:22}{median(all_s):10.2f}{min(all_s):8.2f}{max(all_s):8.2f}{BARS_S[what]:8.0f}")


if __name__ == "__main__":
    main()
