"""The runtime of this checkout beside that of another one, in the same run and in alternating turns.

    git worktree add ../before COMMIT && make -C ../before .venv/.ready
    python tests/bench/bench_before.py --before ../before [--rounds 12] [--sessions 1,8,16,32]

Both sides keep a local cluster with the model loaded, each the other's rival for the same cores, but only one works at
a time. The machine may change its speed from one second to the next: ratios are the medians of those of neighbouring
turns, and who begins changes with every round. Prints a table; exit code 1 where a ratio is below `--least`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from session_rates import rate_of_several

SHORT = list(range(100, 116))
LONG = [(37 * i) % 40_000 + 100 for i in range(512)]
NUM_TOKENS = 48


class Side:
    """One checkout at work. A context manager: its process and its devices end with the block."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        command = [str(folder / ".venv/bin/python"), __file__, "--serve", "--model", options.model]
        command += ["--dtype", options.dtype, "--devices", str(options.devices), "--threads", str(options.threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._read() == "ready", "that checkout could not start its cluster"

    def rate(self, what: str, number: int) -> float:
        """Tokens per second of one turn."""
        assert self._process.stdin is not None
        print(json.dumps([what, number]), file=self._process.stdin, flush=True)
        rate: float = self._read()
        return rate

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline() or '"nothing"')

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compare(options: argparse.Namespace) -> int:
    turns = [("decode", int(number)) for number in options.sessions.split(",")] + [("prefill", len(LONG))]
    rates: dict[tuple[str, int], list[tuple[float, float]]] = {turn: [] for turn in turns}
    with Side(options.before, options) as before, Side(Path(__file__).parents[2], options) as after:
        for round_ in range(options.rounds + 1):
            for turn in turns:
                sides = (before, after) if round_ % 2 else (after, before)
                found = {side: side.rate(*turn) for side in sides}
                if round_:  # the first one warms up
                    rates[turn].append((found[before], found[after]))
    print("| what | before, tokens/s | after, tokens/s | after / before, median (quartiles) |")
    print("|---|--:|--:|--:|")
    worst = float("inf")
    for (what, number), pairs in rates.items():
        ratios = [after / before for before, after in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        worst = min(worst, middle)
        name = f"decode, {number} session(s)" if what == "decode" else f"prefill of {number} tokens"
        one, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"| {name} | {one:.1f} | {other:.1f} | {middle:.3f} ({low:.3f} to {high:.3f}) |")
    return 0 if worst >= options.least else 1


def serve(options: argparse.Namespace) -> None:
    """Answer turns that come by standard input. Uses what every version of shardnet has."""
    import shardnet

    with shardnet.Cluster.local(options.devices, threads_per_device=options.threads) as cluster:
        model = cluster.load(options.model, dtype=options.dtype, split=options.split)
        model.eos_ids = (
            model._eos_ids
        ) = ()  # whatever it is called in that version: every run makes the same number of tokens
        turns: dict[str, Callable[[Any, int], float]] = {"decode": decode_rate, "prefill": prefill_rate}
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            what, number = json.loads(line)
            print(json.dumps(turns[what](model, number)), flush=True)


def prefill_rate(model: Any, num_tokens: int) -> float:
    [result] = model.generate([LONG[:num_tokens]], max_new_tokens=2)
    return num_tokens / float(result.time_to_first_token_s)


def decode_rate(model: Any, num_sessions: int) -> float:
    return rate_of_several(model, SHORT, NUM_TOKENS, num_sessions)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="the other checkout, with its .venv")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--sessions", default="1,8", help="how many at once, one turn each")
    parser.add_argument("--least", type=float, default=0.98, help="the bar of the ratios")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.split = [13, 12, 7] if options.devices == 3 else None  # one plan for both
    if options.serve:
        serve(options)
        return 0
    return compare(options)


if __name__ == "__main__":
    sys.exit(main())
