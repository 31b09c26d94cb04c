"""What it brings to cut a prompt that is alone by what its devices take for chunks: the time to its first token.

    python tests/bench/bench_prompts.py [--near] [--model M] [--tokens 40,128,512] [--rounds 9] [--slowdown 3]

Emulated links between three devices and who asks (root), or three devices on loopback with --near. In every round, in
turns: a prompt in chunks of 128, and another one of as many tokens as `planner.chunks` cuts it. Prompts are random ids,
other ones each time, so that nothing is shared. Printed: medians, and the median of the rounds' ratios.

Three devices on two cores do not compute at the same time, so they are emulated as a third as fast as a core
(`--slowdown 1`: as fast as there is room for; not with --near).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from pathlib import Path
from typing import Any

from bench_turns import first_token_s
from rivals.places import shardnet_alone

from shardnet.session.route import uncut
from shardnet.simulator.script import Road

NUM_DEVICES = 3


def measure(model: Any, num_tokens: int, rounds: int) -> dict[str, Any]:
    """Of prompts of so many tokens; the first round warms up."""
    ids, sessions = random.Random(num_tokens), model._deployment.sessions
    ways = {"whole": uncut, "cut": sessions.cut}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way in sorted(ways, reverse=bool(number % 2)):
            sessions.cut = ways[way]
            found_s = first_token_s(model, [ids.randrange(1000, 20_000) for _ in range(num_tokens)])
            if number:
                seconds[way].append(found_s)
    sessions.cut = ways["cut"]
    ratios = [cut / whole for cut, whole in zip(seconds["cut"], seconds["whole"], strict=True)]
    chunks = sessions.cut(sessions.ring, num_tokens)
    return {"seconds": seconds, "ratio": statistics.median(ratios), "chunks": chunks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--near", action="store_true")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--tokens", default="40,128,512")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--round-trip-ms", type=float, default=5.0)
    parser.add_argument("--mbit-per-s", type=float, default=100.0)
    parser.add_argument("--slowdown", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    road = None if options.near else Road(options.mbit_per_s * 1e6 / 8, options.round_trip_ms / 2000)
    found = {}
    with shardnet_alone(NUM_DEVICES, road, options.slowdown) as cluster:
        with cluster.load(options.model, placement="even", rebalance=False, share_prefixes=False) as model:
            model.eos_ids = ()
            for num_tokens in map(int, options.tokens.split(",")):
                each = found[num_tokens] = measure(model, num_tokens, options.rounds)
                whole_ms, cut_ms = (1e3 * statistics.median(each["seconds"][way]) for way in ("whole", "cut"))
                sizes = f"{len(each['chunks'])} chunks of {each['chunks'][0]}"
                print(
                    f"{num_tokens:5} tokens: {whole_ms:8.1f} ms, in {sizes:20} {cut_ms:8.1f} ms {each['ratio']:6.2f} x",
                    flush=True,
                )
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
