"""What opening a model for the first time costs, and every time after it: processor time of a process of its own.

    python tests/bench/bench_first_start.py [--model smollm2-135m-instruct] [--dtype bfloat16] [--rounds 3]

A round has an empty cache folder. In it, two processes open the model one after the other, read its tokenizer, hash its
weights and load all units, as a coordinator and a device do. Time is that of the processor, user and system: clocks say
little on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MEASURED = """
import json, resource, sys
from pathlib import Path

def processor_s():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

from shardnet.loader import fingerprint, load_shard, open_model

model, dtype, cache = sys.argv[1], sys.argv[2], Path(sys.argv[3])
files = open_model(model, dtype, cache_dir=cache)
files.tokenizer()
files = files.under(fingerprint(files.copy, cache))
opened_s, last = processor_s(), files.profile.num_units - 1
load_shard(files.config, files.tensors_of(0, last), 0, last, dtype)
print(json.dumps([opened_s, processor_s() - opened_s]))
"""


def main() -> None:
    """Measure in rounds, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    starts: dict[str, list[tuple[float, float]]] = {"first": [], "second": []}
    cache_bytes = 0
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory(prefix="shardnet-bench-") as cache:
            for measured in starts.values():
                measured.append(measure(given.model, given.dtype, cache))
            cache_bytes = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file())
    for which, measured in starts.items():
        opened, loaded = (statistics.median(each) for each in zip(*measured, strict=True))
        print(f"{which} start: {opened:.1f} s of the processor to open {given.model}, {loaded:.2f} s to load it")
    print(f"the cache folder has {cache_bytes / 1e6:.0f} MB then")


def measure(model: str, dtype: str, cache: str) -> tuple[float, float]:
    """(seconds to open, seconds to load) of one process."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, model, dtype, cache],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    opened_s, loaded_s = json.loads(done.stdout.splitlines()[-1])
    return opened_s, loaded_s


if __name__ == "__main__":
    main()
