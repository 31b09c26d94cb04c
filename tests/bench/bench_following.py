"""What it costs that a prepared stage follows another one while that decodes, and how fast copies come.

    python tests/bench/bench_following.py [--model M] [--turns N] [--json FILE]

Three local devices; the last one has a prepared stage of the first one's units. Answers are decoded in turns, with and
without a follower. Then a long conversation rests, and is copied from the beginning: politely, and in a hurry.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from shardnet import Cluster
from shardnet.cluster.remote_stage import RemoteStage
from shardnet.plan import StagePlan
from shardnet.transport.messages import Owner, RingId

PROMPT = list(range(100, 132))
LONG_TOKENS = 1500
NUM_TOKENS = 64


def prepare(cluster: Any, model: Any) -> tuple[RemoteStage, Owner]:
    """A stage of the first one's units on the last device, and whom it follows."""
    ring, transport = model._deployment.ring, cluster._transport
    spec, device = ring.specs[0], ring.specs[-1].ring[-1].device
    stop = spec.ring[0]
    ring_id = RingId(ring.ring_id.epoch, transport.draw("plan_version"))
    units = stop.first_unit, stop.last_unit
    prepared = spec._replace(ring_id=ring_id, stage=0, ring=(stop._replace(device=device),), keep_s=1e6)
    stage = RemoteStage(transport, prepared, StagePlan(device, *units))
    stage.sizes = stage.load().result()
    return stage, Owner(stop.device, (ring.ring_id, 0), *units)


def decode_rate(model: Any) -> float:
    """Tokens per second of one greedy answer, from its first token on."""
    with model.stream(PROMPT, max_new_tokens=NUM_TOKENS) as stream:
        times = [time.perf_counter() for _ in stream._session]
    return (len(times) - 1) / (times[-1] - times[0])


def copy_rates(model: Any, stage: RemoteStage, owner: Owner) -> dict[str, float]:
    """Bytes per second of the copies of a long conversation."""
    assert stage.sizes is not None
    rates = {}
    with model.stream((PROMPT * 50)[:LONG_TOKENS], max_new_tokens=2) as stream:
        tokens = iter(stream._session)  # held: a session that nobody reads is closed
        next(tokens)
        for name, copy in (("polite", stage.follow), ("hurried", stage.pull)):
            stage.follow(()).result()
            start_s = time.perf_counter()
            copy((owner,)).result()
            elapsed_s = time.perf_counter() - start_s
            [standing] = stage.standings().result()
            rates[name] = standing.length * stage.sizes.kv_bytes_per_token / elapsed_s
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    with Cluster.local(num_devices=3) as cluster, cluster.load(options.model, standby="cold", rebalance=False) as model:
        stage, owner = prepare(cluster, model)
        rates: dict[str, list[float]] = {"without": [], "with": []}
        decode_rate(model)
        for turn in range(2 * options.turns):
            name = ("without", "with", "with", "without")[turn % 4]
            stage.follow((owner,) if name == "with" else ()).result()
            rates[name].append(decode_rate(model))
        copies = copy_rates(model, stage, owner)
        stage.let_go()
    figures = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        print(f"{name:>8} a follower: {figures[name]:.2f} tokens/s, {min(found):.2f} to {max(found):.2f}")
    print(f"cost: {100 * (1 - figures['with'] / figures['without']):.1f}%")
    for name, bytes_per_s in copies.items():
        print(f"{name:>8} copies: {bytes_per_s / 2**20:.1f} MiB/s")
    if options.json:
        options.json.write_text(json.dumps({"tokens_per_s": rates, "copied_bytes_per_s": copies}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
