"""Tokens per second with a draft where it is asked, beside plain decoding: three devices, one thread each.

    make rivals                                                     # once: the model of 1.1 B, and its draft
    python tests/bench/bench_draft.py [--near] [--turns 5] [--tokens 128] [--slowdown 3] [--json FILE]

Emulated links between three devices and who asks (root), or loopback with --near. The model of 1.1 B says a chain of
tokens, and a draft of 133 M agrees with it on 70% of them (`rivals/chain_model.py`), as a small model of the same
family does on real text: how long both take for a token does not depend on what they say. Plain and drafted answers to
the same prompt take turns, and must be the same; the ratio is the median of those of the turns. Exit code 1 where the
bar is missed, and no figure counts on a machine that does anything else.

With guesses in flight three devices and the draft compute at the same time, and two cores are not four processors: so
devices are emulated as a third as fast as a core, as phones beside a laptop are (`--slowdown 1`: as fast as there is
room for; not with --near).
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from random import Random
from typing import Any

import torch

from shardnet.cluster.model import Model
from shardnet.session.stream import Generation
from shardnet.simulator.script import Road

sys.path.insert(0, str(Path(__file__).parents[1]))
from rivals.chain_model import DRAFT, chain_of, said_after
from rivals.places import shardnet_alone
from testbed.bed import enter_own_network, in_own_network, why_not

CACHE = Path("~/.cache/shardnet-tests").expanduser()
BAR = 1.4
NUM_DEVICES = 3


def main() -> int:
    options = parsed()
    if not options.large.exists() or not options.draft.exists():
        print("There is nothing to measure here: make rivals writes the model of 1.1 B and its draft.")
        return 0
    if not options.near and not in_own_network():
        if reason := why_not():
            print(f"Left out: {reason}. On loopback: --near", file=sys.stderr)
            return 0
        return enter_own_network()
    result = measured(options)
    print(json.dumps(result, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(result["ratio"] < BAR)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--near", action="store_true", help="on loopback")
    parser.add_argument("--turns", type=int, default=5, help="that count; one more warms up")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of a prompt")
    parser.add_argument("--round-trip-ms", type=float, default=5.0)
    parser.add_argument("--mbit-per-s", type=float, default=100.0)
    parser.add_argument("--slowdown", type=float, default=3.0, help="how much slower than this machine devices are")
    parser.add_argument("--split", default=None, help="units of each device, such as 7,8,9 [default: by the planner]")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--draft-threads", type=int, default=1)
    parser.add_argument("--large", type=Path, default=CACHE / "chain-1.1b.Q4_1.gguf")
    parser.add_argument("--draft", type=Path, default=CACHE / "chain-draft.Q4_1.gguf")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    chain, draw = chain_of(DRAFT), Random("draft")
    rates: dict[str, list[float]] = {"plain": [], "drafted": []}
    asked = {"standby": "none", "rebalance": False, "progress": lambda *_: None}
    if options.split is not None:
        asked["split"] = tuple(map(int, options.split.split(",")))
    road = None if options.near else Road(options.mbit_per_s * 1e6 / 8, options.round_trip_ms / 2000)
    with shardnet_alone(NUM_DEVICES, road, options.slowdown) as cluster:
        model = cluster.load(str(options.large), **asked)
        model.eos_ids = ()
        wait_for_draft(model, options)
        for turn in range(options.turns + 1):
            first = draw.randrange(len(chain) - options.prompt - options.tokens - 1)
            prompt = chain[first : first + options.prompt]
            order = ("plain", "drafted") if turn % 2 else ("drafted", "plain")
            answers = {way: answered(model, prompt, way, options) for way in order}
            assert answers["plain"].token_ids == answers["drafted"].token_ids, "the text is the same"
            rate = {way: answer.tokens_per_s or 0.0 for way, answer in answers.items()}
            told = f"{turn}: {rate['drafted']:.4g} and {rate['plain']:.4g} tokens/s, {agreement(answers['plain']):.0%}"
            print(told if turn else f"{told} (warm-up)", file=sys.stderr, flush=True)
            for way in order if turn else ():
                rates[way].append(rate[way])
    ratio = statistics.median(one / other for one, other in zip(rates["drafted"], rates["plain"], strict=True))
    return {**about_run(options), **rates, "ratio": ratio, "bar": BAR}


def wait_for_draft(model: Model, options: argparse.Namespace) -> None:
    """Have it loaded: an answer does not wait for that."""
    answered(model, chain_of(DRAFT)[:8], "drafted", options)
    for engine in model._drafts._engines.values():
        engine.result()


def answered(model: Model, prompt: list[int], way: str, options: argparse.Namespace) -> Generation:
    how = {"draft": str(options.draft), "draft_threads": options.draft_threads} if way == "drafted" else {}
    asked = {"temperature": options.temperature, "max_new_tokens": options.tokens, **how}
    [answer] = model.generate([prompt], **asked)
    return answer


def agreement(answer: Generation) -> float:
    """The share of tokens after which the draft says what comes next."""
    said, ids = said_after(DRAFT), answer.token_ids
    return statistics.mean(said.get(before) == after for before, after in itertools.pairwise(ids))


def about_run(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "command": " ".join(["python", "tests/bench/bench_draft.py", *sys.argv[1:]]),
        "date": str(datetime.date.today()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "link": "loopback"
        if options.near
        else f"{options.round_trip_ms:g} ms, {options.mbit_per_s:g} Mbit/s, emulated",
        "draft": dataclasses.asdict(DRAFT),
        "slowdown": 1.0 if options.near else options.slowdown,
        "tokens": options.tokens,
        "turns": options.turns,
    }


if __name__ == "__main__":
    sys.exit(main())
