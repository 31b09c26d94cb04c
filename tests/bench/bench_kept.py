"""What devices keep so that nothing is lost, beside what they compute with: what stages sent, and units for others.

    python tests/bench/bench_kept.py [--model M] [--sessions 4] [--tokens 1000] [--standby-gib 0.2]

Three local devices, float32. First, while there are conversations: of each stage, its weights, its keys and values, and
what it keeps of what it has sent (`stage/sent_log.py`). Then the model is loaded twice, in new processes each time:
with nothing kept ready, and with as much as `--standby-gib` allows; measured is by how much each process is larger.
Exit code 1 where logs take more than a tenth, or a device gives more than it may.
"""

from __future__ import annotations

import argparse
import sys
import time

import psutil

from shardnet import Cluster
from shardnet.cluster.placement import kept_bytes_per_token
from shardnet.progress import silent

MOST_OF_A_SHARD = 0.1
OVERHEAD_BYTES = 12 * 2**20
"""What a process takes for another stage beside what the stage keeps: threads, code that was not needed before."""
SETTLE_S = 25.0
"""By then is ready what is to be."""
MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=1000, help="of each conversation")
    parser.add_argument("--standby-gib", type=float, default=0.2)
    options = parser.parse_args()
    is_right = logs(options)
    return int(not (standby(options) and is_right))


def logs(options: argparse.Namespace) -> bool:
    """A table of what each stage holds."""
    prompt = [100 + index % 997 for index in range(options.tokens // 2)]
    asked = {"max_new_tokens": options.tokens - len(prompt)}
    with (
        Cluster.local(num_devices=3, threads_per_device=1) as cluster,
        cluster.load(options.model, dtype="float32", standby="cold", rebalance=False, progress=silent) as model,
    ):
        conversations = [model.stream(prompt, **asked) for _ in range(options.sessions)]
        for conversation in conversations:
            next(conversation)
        stages = model.report()
        most_bytes = options.sessions * options.tokens * kept_bytes_per_token(model.profile)
    print("| stage | weights, MiB | keys and values, and what was sent, MiB | what was sent, MiB at most | of all |")
    print("|---|--:|--:|--:|--:|")
    shares = []
    for stage in stages:
        held_bytes = stage.weight_bytes + stage.kv_reserved_bytes
        shares.append(most_bytes / held_bytes)
        cells = [each / MIB for each in (stage.weight_bytes, stage.kv_reserved_bytes, most_bytes)]
        shown = " | ".join(f"{each:.1f}" for each in cells)
        print(f"| {stage.device}, units {stage.first_unit}-{stage.last_unit} | {shown} | {shares[-1]:.1%} |")
    return max(shares) <= MOST_OF_A_SHARD


def standby(options: argparse.Namespace) -> bool:
    """A table of how much larger each process is."""
    before, after = held_by_processes(options, "cold"), held_by_processes(options, "warm")
    limit_bytes = options.standby_gib * 2**30
    print(f"\n| device | larger by, MiB | of {limit_bytes / MIB:.0f} MiB |\n|---|--:|--:|")
    more = {name: after[name] - before[name] for name in before}
    for name, num_bytes in more.items():
        print(f"| {name} | {num_bytes / MIB:.1f} | {num_bytes / limit_bytes:.0%} |")
    return max(more.values()) <= limit_bytes + OVERHEAD_BYTES


def held_by_processes(options: argparse.Namespace, kept: str) -> dict[str, int]:
    """Bytes that are each device's own."""
    gib = None if kept == "cold" else options.standby_gib
    with (
        Cluster.local(num_devices=3, threads_per_device=1) as cluster,
        cluster.load(options.model, dtype="float32", standby=kept, standby_gib=gib, progress=silent) as model,
    ):
        model.generate(["Once upon a time"], max_new_tokens=8)
        time.sleep(SETTLE_S)
        print("\n" + "\n".join(event.text for event in model.events))
        [nursery] = psutil.Process().children()
        processes = sorted(nursery.children(), key=lambda process: process.pid)
        held = [process.memory_full_info().uss for process in processes]
        return dict(zip(cluster.devices, held, strict=True))


if __name__ == "__main__":
    sys.exit(main())
