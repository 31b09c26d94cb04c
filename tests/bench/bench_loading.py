"""How fast a shard is loaded from a file, beside how fast its bytes are read from the disk.

    python tests/bench/bench_loading.py [--model FILE] [--weights auto] [--shard 0.33,0.67] [--turns 5] [--json FILE]

Each turn has the system forget what it has of the file, reads the shard's bytes one after the other as they lie in it,
has it forget them again, and loads the shard, on one thread, beside which one reads; then both once more with what the
system still has. What is compared is the median over turns of the ratio within a turn. Bar: a cold load is at least
half as fast as the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from shardnet.loader import ModelFiles, load_shard, open_model
from shardnet.loader.places import TensorPlace
from shardnet.process.allocator import return_freed, settle_allocator
from shardnet.quantised.kernels.native import native

MODEL = Path.home() / ".cache/shardnet-tests/chain-1.1b.Q4_1.gguf"
BAR = 0.5
AT_ONCE = 4 << 20
DTYPE = "bfloat16"


def forget(files: Iterable[str]) -> None:
    """Have the system drop what it keeps of files. What was just written is written first."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def read_all(places: Iterable[TensorPlace]) -> int:
    """Read these bytes in the order of the files; how many there are."""
    memory, done = memoryview(bytearray(AT_ONCE)), 0
    by_file: dict[str, list[TensorPlace]] = {}
    for place in places:
        by_file.setdefault(place.file, []).append(place)
    for name, own in sorted(by_file.items()):
        with open(name, "rb", buffering=0) as file:
            for place in sorted(own, key=lambda place: place.offset):
                if file.tell() != place.offset:
                    file.seek(place.offset)
                left = place.num_bytes
                while left:
                    count = file.readinto(memory[: min(left, AT_ONCE)])
                    assert count, f"{name} ends early"
                    left -= count
                done += place.num_bytes
    return done


def measured(files: ModelFiles, first: int, last: int, is_cold: bool) -> dict[str, float]:
    """Bytes per second of both, and the processor's seconds of the load."""
    tensors = files.tensors_of(first, last)
    names = sorted({place.file for place in tensors.values()})
    if is_cold:
        forget(names)
    begun = time.perf_counter()
    num_bytes = read_all(tensors.values())
    disk_s = time.perf_counter() - begun
    if is_cold:
        forget(names)
    begun, processor = time.perf_counter(), time.process_time()
    shard = load_shard(files.config, tensors, first, last, DTYPE, scheme=files.weights)
    load_s, processor_s = time.perf_counter() - begun, time.process_time() - processor
    assert shard.bytes_read <= num_bytes, "more was read than the shard has"
    num_read = shard.bytes_read
    del shard
    return_freed()
    return {
        "disk_bytes_per_s": num_bytes / disk_s,
        "load_bytes_per_s": num_read / load_s,
        "ratio": num_read / load_s / (num_bytes / disk_s),
        "processor_s": processor_s,
        "read_bytes": num_read,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--shard", default="0,1", help="from where to where in the model, such as 0.33,0.67")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.model.exists():
        print(f"There is no {arguments.model}. Run `make rivals`, or name another one with --model.", file=sys.stderr)
        return 2
    settle_allocator()
    torch.set_num_threads(1)
    native()  # compiled before anything is measured
    files = open_model(str(arguments.model), DTYPE, weights=arguments.weights)
    begin, end = (float(part) for part in arguments.shard.split(","))
    first, last = round(begin * files.profile.num_units), round(end * files.profile.num_units) - 1
    results = {}
    for is_cold in (True, False):
        turns = [measured(files, first, last, is_cold) for _ in range(arguments.turns)]
        middle = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
        results["cold" if is_cold else "warm"] = middle
        print(
            f"{'cold' if is_cold else 'warm'}, units {first}-{last}, {middle['read_bytes'] / 1e6:.0f} MB: disk "
            f"{middle['disk_bytes_per_s'] / 1e6:.0f} MB/s, load {middle['load_bytes_per_s'] / 1e6:.0f} MB/s, ratio "
            f"{middle['ratio']:.2f}, {middle['processor_s']:.2f} s of the processor",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    is_met = results["cold"]["ratio"] >= BAR
    print(f"Bar (cold, at least {BAR}): {'met' if is_met else 'missed'}")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
