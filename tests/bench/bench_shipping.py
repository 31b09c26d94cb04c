"""How much slower a conversation is while weights flow along a link that it needs, too. Needs root.

    python tests/bench/bench_shipping.py [--mbit-per-s 100] [--latency-ms 1] [--slowdown 3] [--turns 3] [--json FILE]

Three emulated devices, each with a disk of its own, hold a model that they have fetched; in turn the last one fetches
the units of the one before it, from that one, and nothing is fetched. Measured is the time from one token to the next.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from itertools import permutations
from pathlib import Path
from typing import Any

from bench_prediction import cut_model

from shardnet.cluster.remote_stage import RemoteStage
from shardnet.plan import StagePlan
from shardnet.simulator.script import Road, ScriptDevice
from shardnet.transport.messages import RingId, RingStop

sys.path.insert(0, str(Path(__file__).parents[1]))
from testbed.bed import Bed, enter_own_network, in_own_network, why_not

SPLIT = (5, 5, 4)
PROMPT = list(range(100, 116))
QUIET_TOKENS = 60
GIVER, TAKER = 1, 2
"""Of the stages: the one whose units are fetched, and the one whose device fetches them."""


def prepare(cluster: Any, model: Any) -> RemoteStage:
    """Room for the giver's units on the taker's device; loading it fetches them."""
    ring, transport = model._deployment.ring, cluster._transport
    spec, device = ring.specs[GIVER], ring.specs[TAKER].ring[TAKER].device
    stop = spec.ring[GIVER]
    ring_id = RingId(ring.ring_id.epoch, transport.draw("plan_version"))
    units = stop.first_unit, stop.last_unit
    prepared = spec._replace(ring_id=ring_id, stage=0, ring=(RingStop(device, *units),), keep_s=1e6)
    return RemoteStage(transport, prepared, StagePlan(device, *units))


def one_turn(cluster: Any, model: Any, cache: Path) -> tuple[list[float], list[float], float]:
    """(seconds between tokens while nothing flows, and while weights do; seconds of the fetch)."""
    quiet_s: list[float] = []
    flowing_s: list[float] = []
    with model.stream(PROMPT, max_new_tokens=2000) as stream:
        tokens = iter(stream._session)
        next(tokens)
        before_s = time.perf_counter()
        stage, loading, began_s = None, None, 0.0
        for number, _ in enumerate(tokens):
            now_s = time.perf_counter()
            (quiet_s if loading is None else flowing_s).append(now_s - before_s)
            before_s = now_s
            if number == QUIET_TOKENS:
                stage = prepare(cluster, model)
                began_s, loading = time.perf_counter(), stage.load()
                before_s = time.perf_counter()
            if loading is not None and loading.done():
                break
    assert stage is not None and loading is not None, "the answer is long enough"
    loading.result()
    took_s = time.perf_counter() - began_s
    stage.unload().result()
    stage.release()
    forget(model, cache)
    return quiet_s, flowing_s, took_s


def forget(model: Any, cache: Path) -> None:
    """Let the taker have the giver's tensors no more: they are fetched again in the next turn."""
    taker = model._deployment.ring.specs[TAKER].ring[TAKER].device
    for root in model._deployment.ring.specs[GIVER].tensors.values():
        for path in (cache / taker / "fetched" / "tensors").glob(f"{root}.*"):
            path.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mbit-per-s", type=float, default=100.0)
    parser.add_argument("--latency-ms", type=float, default=1.0)
    parser.add_argument("--slowdown", type=float, default=3.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    if not in_own_network():
        reason = why_not()
        return print(reason) or 1 if reason else enter_own_network()
    names = ("a", "b", "c")
    road = Road(options.mbit_per_s * 1e6 / 8, options.latency_ms / 1e3)
    devices = [ScriptDevice(name, options.slowdown, 1.0) for name in names]
    with tempfile.TemporaryDirectory(prefix="shardnet-bench-") as folder:
        cache = Path(folder, "cache")
        cache.mkdir()
        source = cut_model(Path(folder, "model"))
        roads = dict.fromkeys(permutations(names, 2), road)
        how = {"split": SPLIT, "context_tokens": 4000, "standby": "none", "cache_dir": cache}
        with (
            Bed(devices, roads, are_limited=False, cache_dir=cache, are_apart=True) as bed,
            bed.cluster.load(source, progress=lambda *_: None, **how) as model,
        ):
            print(*(event.text for event in model.events), sep="\n")
            turns = [one_turn(bed.cluster, model, cache) for _ in range(options.turns)]
            stop = model._deployment.ring.specs[GIVER].ring[GIVER]
            units = model.profile.units[stop.first_unit : stop.last_unit + 1]
            num_bytes = sum(unit.weight_bytes for unit in units)
        shutil.rmtree(cache)
    report(turns, num_bytes, road.bytes_per_s, options.json)
    return 0


def report(
    turns: list[tuple[list[float], list[float], float]], num_bytes: int, bytes_per_s: float, target: Path | None
) -> None:
    """Print the figures, and keep them where that was asked for."""
    quiet_s = [seconds for turn in turns for seconds in turn[0]]
    flowing_s = [seconds for turn in turns for seconds in turn[1]]
    for name, found in (("nothing flows", quiet_s), ("weights flow", flowing_s)):
        middle, late = statistics.median(found), sorted(found)[int(0.9 * len(found))]
        print(f"{name:>14}: {1e3 * middle:.1f} ms a token in the middle, {1e3 * late:.1f} in the slowest tenth")
    print(f"slower by {100 * (statistics.mean(flowing_s) / statistics.mean(quiet_s) - 1):.1f}% on average")
    print(f"slower by {100 * (statistics.median(flowing_s) / statistics.median(quiet_s) - 1):.1f}% in the middle")
    rates = [num_bytes / took_s for _, _, took_s in turns]
    print(f"{num_bytes / 1e6:.0f} MB at {statistics.median(rates) / 1e6:.1f} MB/s of {bytes_per_s / 1e6:.1f}")
    if target:
        kept = {"quiet_s": quiet_s, "flowing_s": flowing_s, "bytes_per_s": rates, "link_bytes_per_s": bytes_per_s}
        target.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    sys.exit(main())
