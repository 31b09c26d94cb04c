"""What a token costs by transformers' `generate` over a ring, beside the ring's own stream.

    python tests/bench/bench_interface.py [--model M] [--devices N] [--turns N] [--tokens N] [--json FILE]

Local devices with one thread each; the ways take turns, and the middle of several turns is printed with the spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from shardnet import Cluster, Model, RingForCausalLM

PROMPT = list(range(100, 132))


def ways_of(model: Model, num_tokens: int) -> dict[str, Callable[[], Any]]:
    """What is timed, by name. Each gives so many tokens, by beams four times as many."""
    ringed, ids = RingForCausalLM(model), torch.tensor([PROMPT])
    options: dict[str, Any] = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens, "pad_token_id": 0}
    return {
        "stream": lambda: list(model.stream(PROMPT, max_new_tokens=num_tokens, ignore_eos=True)),
        "generate": lambda: ringed.generate(ids, do_sample=False, **options),
        "generate, 4 beams": lambda: ringed.generate(ids, do_sample=False, num_beams=4, **options),
        "generate, 4 texts": lambda: ringed.generate(ids.repeat(4, 1) + torch.arange(4)[:, None], **options),
    }


def measure(model: Model, num_turns: int, num_tokens: int) -> dict[str, list[float]]:
    """Seconds for a token of each way, turn by turn."""
    ways = ways_of(model, num_tokens)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(num_turns + 1):
        for name, way in ways.items():
            start_s = time.perf_counter()
            way()
            if turn:  # the first one warms up
                seconds[name].append((time.perf_counter() - start_s) / num_tokens)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with Cluster.local(num_devices=asked.devices, threads_per_device=1) as cluster:
        seconds = measure(cluster.load(asked.model), asked.turns, asked.tokens)
    for name, each in seconds.items():
        middle = 1000 * statistics.median(each)
        print(f"{name:20} {middle:7.1f} ms a token ({1000 * min(each):.1f} to {1000 * max(each):.1f})")
    if asked.json is not None:
        asked.json.write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
