"""How much slower a conversation is while weights flow along a link that it needs, too. Needs root.

    python tests/bench/bench_shipping.py [--mbit-per-s 100] [--latency-ms 1] [--slowdown 3] [--turns 3] [--json FILE]

Three emulated devices, each with a disk of its own, hold a model that they have fetched. In each turn, in the midst of
an answer, the last one fetches the units of the one before it, from that one; before and after that nothing is fetched.
Measured is the time from one token to the next; where it goes, at each stage: to its step, and to the hop that brings
what the step is made of; and what a megabyte costs each process of processor time beside the conversation.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from bench_prediction import cut_model

from shardnet.cluster.remote_stage import RemoteStage
from shardnet.plan import StagePlan
from shardnet.simulator.script import Road, ScriptDevice
from shardnet.timeline.recorder import Totals
from shardnet.transport.messages import RingId

sys.path.insert(0, str(Path(__file__).parents[1]))
from testbed.bed import Bed, enter_own_network, in_own_network, why_not

SPLIT = (5, 5, 4)
PROMPT = list(range(100, 116))
QUIET_TOKENS = 40
"""Before the weights flow, and after it."""
GIVER, TAKER = 1, 2
"""Of the stages: the one whose units are fetched, and the one whose device fetches them."""


def prepare(cluster: Any, model: Any) -> RemoteStage:
    """Room for the giver's units on the taker's device; loading it fetches them."""
    ring, transport = model._deployment.ring, cluster._transport
    spec, device = ring.specs[GIVER], ring.specs[TAKER].ring[TAKER].device
    stop = spec.ring[GIVER]
    ring_id = RingId(ring.ring_id.epoch, transport.draw("plan_version"))
    units = stop.first_unit, stop.last_unit
    prepared = spec._replace(ring_id=ring_id, stage=0, ring=(stop._replace(device=device),), keep_s=1e6)
    return RemoteStage(transport, prepared, StagePlan(device, *units))


class Count(NamedTuple):
    """What has been done by now."""

    at_s: float
    cpu_s: dict[str, float]
    """By process."""
    stages: list[Totals]


class Turn(NamedTuple):
    """One fetch, and the same conversation before and after it."""

    quiet_s: list[float]
    flowing_s: list[float]
    """From one token to the next."""
    took_s: float
    cpu_s: dict[str, float]
    """Of each process for the fetch: beyond what the conversation takes of it in such a time."""
    stages: list[tuple[str, float, float, float, float]]
    """Device, s of a step and of a hop while nothing flows, and the same while weights do."""


def count(bed: Bed, model: Any) -> Count:
    processes = {**bed.pids, "switch": bed._nest.pid}
    cpu_s = {name: sum(psutil.Process(pid).cpu_times()[:2]) for name, pid in processes.items()}
    stages = [stage.account() for stage in model._deployment.ring.stages]
    return Count(time.perf_counter(), cpu_s, [account.result().totals for account in stages])


def one_turn(bed: Bed, model: Any, cache: Path) -> Turn:
    with model.stream(PROMPT, max_new_tokens=2000) as stream:
        tokens = iter(stream._session)
        next(tokens)
        counts = [count(bed, model)]
        before_s = gaps_s(tokens, lambda number: number < QUIET_TOKENS)
        counts.append(count(bed, model))
        stage = prepare(bed.cluster, model)
        began_s, loading = time.perf_counter(), stage.load()
        flowing_s = gaps_s(tokens, lambda _: not loading.done())
        took_s = time.perf_counter() - began_s
        counts.append(count(bed, model))
        after_s = gaps_s(tokens, lambda number: number < QUIET_TOKENS)
    loading.result()
    stage.unload().result()
    stage.release()
    forget(model, cache)
    return Turn(before_s + after_s, flowing_s, took_s, cpu_beyond(*counts), where_it_goes(*counts))


def gaps_s(tokens: Iterator[Any], goes_on: Callable[[int], bool]) -> list[float]:
    """From one token to the next, beginning with the next one: what was done before it is none of theirs."""
    found: list[float] = []
    next(tokens)
    last_s = time.perf_counter()
    while goes_on(len(found)):
        next(tokens)
        now_s = time.perf_counter()
        found.append(now_s - last_s)
        last_s = now_s
    return found


def cpu_beyond(first: Count, begun: Count, ended: Count) -> dict[str, float]:
    share = (ended.at_s - begun.at_s) / (begun.at_s - first.at_s)
    quiet_s = {name: share * (begun.cpu_s[name] - cpu_s) for name, cpu_s in first.cpu_s.items()}
    return {name: ended.cpu_s[name] - begun.cpu_s[name] - quiet for name, quiet in quiet_s.items()}


def where_it_goes(*counts: Count) -> list[tuple[str, float, float, float, float]]:
    found = []
    for first, begun, ended in zip(*(each.stages for each in counts), strict=True):
        parts = []
        for before, now in ((first, begun), (begun, ended)):
            parts.append((now.compute_s - before.compute_s) / (now.num_steps - before.num_steps))
            parts.append((now.wire_s - before.wire_s) / (now.num_messages - before.num_messages))
        found.append((first.device, *parts))
    return found


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
            turns = [one_turn(bed, model, cache) for _ in range(options.turns)]
            stop = model._deployment.ring.specs[GIVER].ring[GIVER]
            units = model.profile.units[stop.first_unit : stop.last_unit + 1]
            num_bytes = sum(unit.weight_bytes for unit in units)
        shutil.rmtree(cache)
    report(turns, num_bytes, road.bytes_per_s, options.json)
    return 0


def report(turns: list[Turn], num_bytes: int, bytes_per_s: float, target: Path | None) -> None:
    """Print the figures, and keep them where that was asked for."""
    quiet_s = [seconds for turn in turns for seconds in turn.quiet_s]
    flowing_s = [seconds for turn in turns for seconds in turn.flowing_s]
    print(f"{'ms a token':>14}  mean  median  95%")
    for name, found in (("nothing flows", quiet_s), ("weights flow", flowing_s)):
        print(f"{name:>14}: {'  '.join(f'{1e3 * each:.1f}' for each in measures(found))}")
    slower = [100 * (flowing / quiet - 1) for flowing, quiet in zip(measures(flowing_s), measures(quiet_s))]
    print(f"{'slower by':>14}: {'  '.join(f'{each:.1f}%' for each in slower)}")
    for each in zip(*(turn.stages for turn in turns)):
        step, hop, flowing_step, flowing_hop = (1e3 * statistics.median(part) for part in list(zip(*each))[1:])
        print(
            f"{each[0][0]}: a step {step:.1f} -> {flowing_step:.1f} ms, a hop to it {hop:.2f} -> {flowing_hop:.2f} ms"
        )
    for name in turns[0].cpu_s:
        cpu_s = statistics.median(turn.cpu_s[name] for turn in turns)
        print(f"{name}: {1e3 * cpu_s / (num_bytes / 1e6):.1f} ms of processor time for a MB")
    rates = [num_bytes / turn.took_s for turn in turns]
    rate = statistics.median(rates) / 1e6
    print(f"{num_bytes / 1e6:.0f} MB at {rate:.1f} MB/s of {bytes_per_s / 1e6:.1f}, with the load itself")
    if target:
        kept = {"turns": [turn._asdict() for turn in turns], "bytes_per_s": rates, "link_bytes_per_s": bytes_per_s}
        target.write_text(json.dumps(kept, indent=1))


def measures(found: list[float]) -> tuple[float, float, float]:
    """Mean, median, and what 95% are below."""
    return statistics.mean(found), statistics.median(found), sorted(found)[int(0.95 * len(found))]


if __name__ == "__main__":
    sys.exit(main())
