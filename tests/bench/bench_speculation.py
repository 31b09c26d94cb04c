"""Tokens per second with guesses by look-up, beside none: three devices, one thread each.

    python tests/bench/bench_speculation.py [--near] [--turns 5] [--tokens 150] [--round-trip-ms 5] [--json FILE]

Emulated links between three devices and who asks (root), or loopback with --near. Answers to the same prompt without
guesses, with `--speculate lookup` and with `auto` take turns: to texts that are repeated (editing code, summarising)
and one that is not (a story), in real words (`rivals/texts.py`). In float32 they must be the same. Ratios are medians
of those of the turns. Exit code 1 where a bar is missed: look-up and auto at least 2.0 times as fast as without on each
text that is repeated, auto never below 0.97. No figure counts on a machine that does anything else.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from shardnet.cluster.model import Model
from shardnet.session.stream import Generation
from shardnet.simulator.script import Road

sys.path.insert(0, str(Path(__file__).parents[1]))
from rivals.places import shardnet_alone
from rivals.texts import PROMPTS, messages_of
from testbed.bed import enter_own_network, in_own_network, why_not

WAYS = ("off", "lookup", "auto")
REPEATED = ("editing", "summarising")
LEAST_REPEATED, LEAST = 2.0, 0.97
NUM_DEVICES = 3


def main() -> int:
    options = parsed()
    if not options.near and not in_own_network():
        if reason := why_not():
            print(f"Left out: {reason}. On loopback: --near", file=sys.stderr)
            return 0
        return enter_own_network()
    result = measured(options)
    print(json.dumps(result, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(not all(each["is_met"] for each in result["texts"].values()))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--near", action="store_true", help="on loopback")
    parser.add_argument("--turns", type=int, default=5, help="that count; one more warms up")
    parser.add_argument("--tokens", type=int, default=150, help="of an answer, at most")
    parser.add_argument("--texts", default=",".join(PROMPTS), help=f"of {', '.join(PROMPTS)}")
    parser.add_argument("--round-trip-ms", type=float, default=5.0)
    parser.add_argument("--mbit-per-s", type=float, default=100.0)
    parser.add_argument(
        "--split", default=None, help="units of each device, such as 10,10,12 [default: by the planner]"
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.texts = [text for text in PROMPTS if text in options.texts.split(",")]
    return options


def measured(options: argparse.Namespace) -> dict[str, Any]:
    asked: dict[str, Any] = {"weights": options.weights, "dtype": options.dtype}
    asked |= {"standby": "none", "rebalance": False, "share_prefixes": False, "progress": lambda *_: None}
    if options.split is not None:
        asked["split"] = tuple(map(int, options.split.split(",")))
    road = None if options.near else Road(options.mbit_per_s * 1e6 / 8, options.round_trip_ms / 2000)
    with shardnet_alone(NUM_DEVICES, road) as cluster:
        model = cluster.load(options.model, **asked)
        texts = {text: measured_text(model, text, options) for text in options.texts}
    return {**about_run(options), "texts": texts}


def measured_text(model: Model, text: str, options: argparse.Namespace) -> dict[str, Any]:
    prompt = model.encode(messages_of(text), chat=True)
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    num_same = 0
    for turn in range(options.turns + 1):
        order = [*WAYS[turn % len(WAYS) :], *WAYS[: turn % len(WAYS)]]
        answers = {way: answered(model, prompt, way, options) for way in order}
        ids = [answers[way].token_ids for way in WAYS]
        assert options.dtype != "float32" or ids[0] == ids[1] == ids[2], "the text is the same"
        num_same += ids[0] == ids[1] == ids[2]
        rate = {way: answer.tokens_per_s or 0.0 for way, answer in answers.items()}
        told = f"{text}, {turn}: " + ", ".join(f"{way} {rate[way]:.4g}" for way in WAYS) + " tokens/s"
        print(told if turn else f"{told} (warm-up)", file=sys.stderr, flush=True)
        for way in WAYS if turn else ():
            rates[way].append(rate[way])
    return {**rates, **judged(text, rates), "num_same": num_same, "num_turns": options.turns + 1}


def judged(text: str, rates: dict[str, list[float]]) -> dict[str, Any]:
    ratios = {
        way: statistics.median(one / other for one, other in zip(rates[way], rates["off"], strict=True) if other)
        for way in WAYS[1:]
    }
    bar = LEAST_REPEATED if text in REPEATED else LEAST
    is_met = ratios["auto"] >= bar and (text not in REPEATED or ratios["lookup"] >= bar)
    return {"ratios": ratios, "bar": bar, "is_met": is_met}


def answered(model: Model, prompt: list[int], way: str, options: argparse.Namespace) -> Generation:
    [answer] = model.generate([prompt], max_new_tokens=options.tokens, speculate=way)
    return answer


def about_run(options: argparse.Namespace) -> dict[str, Any]:
    link = f"{options.round_trip_ms:g} ms, {options.mbit_per_s:g} Mbit/s, emulated"
    return {
        "command": " ".join(["python", "tests/bench/bench_speculation.py", *sys.argv[1:]]),
        "date": str(datetime.date.today()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "link": "loopback" if options.near else link,
        "model": options.model,
        "weights": options.weights,
        "dtype": options.dtype,
        "tokens": options.tokens,
        "turns": options.turns,
    }


if __name__ == "__main__":
    sys.exit(main())
