"""What the loss of devices costs: whether every text stays as it is, and how long the gap in it is.

    python tests/bench/bench_recovery.py [--runs 50,30,20,20,20] [--tokens 200] [--seed 0] [--only kill,freeze]

Real processes of this machine, the embedded model, greedy in float32; devices are killed by SIGKILL, or stopped by
SIGSTOP for 20 s, at moments drawn at random. Told apart: *detection*, from the signal until the loss is known, and
*repair*, from then until the next token. Prints a table; exit code 1 where a text differs or an answer does not end.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import shardnet
from shardnet.cluster.model import Model
from shardnet.progress import silent

MODEL = "smollm2-135m-instruct"
PROMPT = list(range(100, 164))
OTHERS = [list(range(200 + 50 * index, 232 + 70 * index)) for index in range(3)]
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 40, "repetition_penalty": 1.1, "seed": 5}
FROZEN_S = 20.0
LONGEST_S = 300.0
NUM_UNITS = 32


@dataclass
class Found:
    """What came out of the runs of one kind."""

    num_runs: int = 0
    num_wrong: int = 0
    detections_s: list[float] = field(default_factory=list)
    repairs_s: list[float] = field(default_factory=list)


@dataclass
class Strike:
    """Signals that are sent in the course of an answer."""

    pids: Sequence[int]
    at_s: float
    """After the prompt was sent."""
    apart_s: float = 0.0
    """Between one signal and the next."""
    freezes: bool = False
    sent_s: float = 0.0

    def send(self) -> None:
        time.sleep(self.at_s)
        self.sent_s = time.monotonic()
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP if self.freezes else signal.SIGKILL)
            time.sleep(self.apart_s)
        if self.freezes:
            time.sleep(FROZEN_S)
            for pid in self.pids:
                os.kill(pid, signal.SIGCONT)


def one_run(
    found: Found, expected: list[list[int]], num_devices: int, num_tokens: int, strike: Callable[[list[int]], Strike]
) -> None:
    """Answer while devices are lost. `expected` has a text for each prompt: one, or several at once."""
    known_s: list[float] = []
    share, rest = divmod(NUM_UNITS, num_devices)
    split = [share + (index < rest) for index in range(num_devices)]
    with shardnet.Cluster.local(num_devices, threads_per_device=1, progress=silent) as cluster:

        def note(event: shardnet.Event) -> None:
            if event.event in ("lost", "suspected"):
                known_s.append(time.monotonic())

        model = cluster.load(MODEL, dtype="float32", split=split, on_event=note, progress=silent)
        struck = strike([answer["pid"] for answer in cluster.describe()])
        signals = threading.Thread(target=struck.send)
        streams = started(model, num_tokens, len(expected))
        signals.start()
        readers = [threading.Thread(target=list, args=(stream,), daemon=True) for stream in streams[1:]]
        for reader in readers:
            reader.start()
        came_s = [time.monotonic() for _ in streams[0]]
        for reader in readers:
            reader.join(LONGEST_S)
        found.num_runs += 1
        found.num_wrong += [stream.result.token_ids for stream in streams] != expected
        signals.join()
    if known_s:
        found.detections_s.append(known_s[0] - struck.sent_s)
        found.repairs_s += [after - known_s[-1] for after in came_s if after > known_s[-1]][:1]


def started(model: Model, num_tokens: int, number: int) -> list[shardnet.Stream]:
    """Streams of so many prompts, every other one sampled."""
    prompts = [PROMPT, *OTHERS][:number]
    return [
        model.stream(prompt, max_new_tokens=num_tokens, **(SAMPLED if index % 2 else {}))
        for index, prompt in enumerate(prompts)
    ]


def undisturbed(num_tokens: int, number: int) -> list[list[int]]:
    with shardnet.Cluster.local(1, threads_per_device=1, progress=silent) as cluster:
        model = cluster.load(MODEL, dtype="float32", split=[NUM_UNITS], progress=silent)
        streams = started(model, num_tokens, number)
        return ["".join(stream) and stream.result.token_ids for stream in streams]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="50,30,20,20,20", help="of kill, freeze, pair, second, sessions")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="kill,freeze,pair,second,sessions")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    length_s = options.tokens * 0.05

    def killed(pids: list[int]) -> Strike:
        return Strike([draw.choice(pids)], draw.uniform(0, length_s))

    def frozen(pids: list[int]) -> Strike:
        return Strike([draw.choice(pids)], draw.uniform(0, length_s), freezes=True)

    def pair(pids: list[int]) -> Strike:
        return Strike(draw.sample(pids, 2), draw.uniform(0, length_s))

    def second(pids: list[int]) -> Strike:
        return Strike(draw.sample(pids, 2), draw.uniform(0, length_s), apart_s=draw.uniform(0, 0.4))

    kinds = {
        "kill": (3, 1, killed),
        "freeze": (3, 1, frozen),
        "pair": (4, 1, pair),
        "second": (4, 1, second),
        "sessions": (3, 4, killed),
    }
    print("| loss | runs | wrong texts | detection, s: median, worst | repair, s: median, worst |")
    print("|---|--:|--:|--:|--:|", flush=True)
    num_wrong = 0
    for (kind, (num_devices, number, strike)), runs in zip(kinds.items(), options.runs.split(","), strict=True):
        if kind not in options.only.split(","):
            continue
        found, expected = Found(), undisturbed(options.tokens, number)
        for _ in range(int(runs)):
            one_run(found, expected, num_devices, options.tokens, strike)
        num_wrong += found.num_wrong
        gaps = f"{shown(found.detections_s)} | {shown(found.repairs_s)}"
        print(f"| {kind} | {found.num_runs} | {found.num_wrong} | {gaps} |", flush=True)
    return int(num_wrong > 0)


def shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f}, {max(seconds):.3f}" if seconds else "-"


if __name__ == "__main__":
    sys.exit(main())
