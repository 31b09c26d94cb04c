"""Keys and values in 8 bits beside those in the model's dtype: memory, and the time of a step behind long texts.

    python tests/bench/bench_kv.py [--model M] [--contexts 256,1500,4096,8000] [--turns 9] [--json FILE]

On one thread, in this process, with the whole of a model in one shard. The caches are filled with random numbers: what
they say makes no difference to the time. Steps of one token, and of 40 as the second turn of a chat has them. Ways take
turns, and what is compared is the median over turns of the ratio within a turn. Times are those of the thread, not of
the clock: others may use the machine meanwhile, though caches and memory are shared with them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from shardnet.loader import load_shard, open_model
from shardnet.models import Segment, Shard
from shardnet.models.plain_config import PlainConfig, values_of
from shardnet.progress import silent
from shardnet.quantised.kv_names import KV_DTYPES
from shardnet.stage.cache import KVCache

NEW_TOKENS = (1, 40)
MIB = 2**20


def filled(shard: Shard, num_tokens: int) -> KVCache:
    """A cache with one session of so many tokens, and room for a step more."""
    cache = KVCache(shard.kv_layout, shard.kv_row_dtype)
    draw = torch.Generator().manual_seed(0)
    rows = {}
    for block in cache.layout:
        heads = (torch.randn(block.num_kv_heads, num_tokens, size, generator=draw) for size in shard.head_sizes)
        keys, values = (shard.as_kept(each) for each in heads)
        rows[block.layer] = keys, values
    cache.restore(0, num_tokens, rows, num_tokens + max(NEW_TOKENS))
    return cache


def seconds(shard: Shard, cache: KVCache, num_new: int, num_steps: int) -> float:
    """Of one step, which is taken back each time."""
    ids, segments = torch.arange(100, 100 + num_new), [Segment(cache.get(0), num_new)]
    before = time.thread_time()
    for _ in range(num_steps):
        shard.forward(ids, segments)
    return (time.thread_time() - before) / num_steps


def measure(shards: dict[str, Shard], num_tokens: int, turns: int) -> list[dict[str, object]]:
    """A row for each number of new tokens."""
    caches = {kv_dtype: filled(shard, num_tokens) for kv_dtype, shard in shards.items()}
    rows: list[dict[str, object]] = []
    for num_new in NEW_TOKENS:
        num_steps = 8 if num_new == 1 else 2
        times: dict[str, list[float]] = {kv_dtype: [] for kv_dtype in shards}
        for turn in range(turns + 1):
            for kv_dtype, shard in shards.items():
                taken_s = seconds(shard, caches[kv_dtype], num_new, num_steps)
                if turn:  # the first one warms up
                    times[kv_dtype].append(taken_s)
        plain, rounded = (times[kv_dtype] for kv_dtype in KV_DTYPES)
        ratio = statistics.median(one / other for one, other in zip(plain, rounded, strict=True))
        rows.append(
            {
                "context": num_tokens,
                "new_tokens": num_new,
                "kv_mib": {name: shard.kv_bytes_per_token * num_tokens / MIB for name, shard in shards.items()},
                "step_ms": {name: statistics.median(each) * 1e3 for name, each in times.items()},
                "times_as_fast": ratio,
            }
        )
    return rows


def show(row: dict[str, object]) -> str:
    def each(name: str) -> str:
        values = row[name]
        assert isinstance(values, dict)
        return " / ".join(f"{value:8.2f}" for value in values.values())

    about = f"{row['context']:>8} {row['new_tokens']:>4}   {each('kv_mib')}   {each('step_ms')}"
    return f"{about}   {row['times_as_fast']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--contexts", default="256,1500,4096,8000")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    files = open_model(asked.model, "bfloat16", weights=asked.weights, progress=silent)
    last, weights = files.profile.num_units - 1, {}
    tensors, config = files.tensors_of(0, last), PlainConfig(values_of(files.config))  # as devices have it
    shards = {
        kv_dtype: load_shard(config, tensors, 0, last, "bfloat16", weights, scheme=files.weights, kv_dtype=kv_dtype)
        for kv_dtype in KV_DTYPES
    }
    print(f"{files.name}, weights {asked.weights}, bfloat16; behind each other: keys and values {', '.join(KV_DTYPES)}")
    print(" context  new   KV cache, MiB         ms a step             times as fast")
    rows = []
    for context in map(int, asked.contexts.split(",")):
        for row in measure(shards, context, asked.turns):
            rows.append(row)
            print(show(row), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
