"""EdgeShard's sweeps, measured on emulated devices and links, beside what was published. Needs root.

    python tests/bench/bench_edgeshard.py [--sweeps bandwidth,source,pipeline] [--turns 3] [--tokens 24] [--json FILE]

EdgeShard (Zhang et al., 2024, arXiv:2405.14371): a source, another Jetson AGX Orin and a cloud server with an RTX 3090,
of which the cloud is 6.5 times faster. Here one core of this machine is the cloud, and the embedded model, whose hidden
states are so many times smaller than Llama-2-7B's, crosses links that are as many times slower. So a token computes
about as long as theirs, and a hop takes as long; ms a token can be laid beside each other, roughly, ratios well.

*bandwidth*: from the source to the cloud, 1 to 50 Mbit/s of theirs. *source*: an AGX Orin, or an Orin NX, which is
slower still. *pipeline*: several conversations one after the other, and at once, without bubbles. Published figures
stand only where they could be verified; docs/planning.md has the same tables as predicted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import shardnet
from shardnet.cluster.model import Model
from shardnet.errors import DoesNotFit
from shardnet.launch.bench.grid import Point
from shardnet.launch.bench.options import DECODE, SESSIONS, BenchOptions
from shardnet.launch.bench.run import Measured, measure_points
from shardnet.progress import silent
from shardnet.session.options import GenerationOptions
from shardnet.simulator.script import COORDINATOR, Road, ScriptDevice

sys.path.insert(0, str(Path(__file__).parents[1]))
from testbed.bed import Bed, enter_own_network, in_own_network, why_not

MODEL, DTYPE = "smollm2-135m-instruct", "float32"
SCALE = 576 / 4096
"""Of hidden states: SmolLM2-135M's to Llama-2-7B's."""
HOP_S = 2.1e-3
EDGE_MBIT_PER_S, TO_CLOUD_MBIT_PER_S = 1000.0, 50.0
"""Between edge devices, and from any but the source to the cloud."""
SLOWDOWN = {"AGX Orin": 6.5, "Orin NX": 7.7, "cloud": 1.0}
"""By the profile that EdgeShard's authors published, for Llama-2-7B."""
MBITS_PER_S = (1.0, 5.0, 10.0, 25.0, 50.0)
METHODS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "Edge-Solo": ({"placement": "solo"}, ()),
    "Cloud-Edge-Opt": ({"placement": "edgeshard"}, ("cloud",)),
    "EdgeShard": ({"placement": "edgeshard"}, ("agx", "cloud")),
    "shardnet auto": ({"placement": "auto"}, ("agx", "cloud")),
    "shardnet auto, private": ({"placement": "auto", "private_to": "source"}, ("agx", "cloud")),
}
"""How they are placed, and who takes part beside the source. EdgeShard keeps the first layer there, and shardnet the
first and the last where it is asked to."""
NUM_AT_ONCE = 4
"""The published rate times the published time of a token: so many conversations were at work at once."""
PUBLISHED = {("bandwidth", "EdgeShard", 1.0): "75.88 ms", ("pipeline", "EdgeShard", 1.0): "4.0 times"}


@dataclass(frozen=True)
class Row:
    """One line."""

    sweep: str
    method: str
    source: str
    mbit_per_s: float
    ms_per_token: float | None
    """None where it does not fit."""
    predicted_ms: float | None
    gain: float | None
    """Of pipeline: tokens per second of several conversations at once, over those of one."""
    placed: str
    published: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", default="bandwidth,source,pipeline")
    parser.add_argument("--mbits-per-s", default=",".join(f"{each:g}" for each in MBITS_PER_S), help="of bandwidth")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if reason := why_not():
        print(f"Nothing is measured: {reason}.")
        return 0
    if not in_own_network():
        return enter_own_network()
    print("| sweep | method | source | Mbit/s to the cloud | ms a token | predicted | gain | published | placed |")
    print("|---|---|---|--:|--:|--:|--:|--:|---|", flush=True)
    rows = []
    for row in measured(options):
        print(as_line(row), flush=True)
        rows.append(row)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


def measured(options: argparse.Namespace) -> Iterator[Row]:
    sweeps = options.sweeps.split(",")
    if "bandwidth" in sweeps:
        for mbit_per_s in map(float, options.mbits_per_s.split(",")):
            for method in METHODS:
                yield measure("bandwidth", method, "AGX Orin", mbit_per_s, options)
    if "source" in sweeps:
        for source in ("AGX Orin", "Orin NX"):
            for method in METHODS:
                yield measure("source", method, source, MBITS_PER_S[0], options)
    if "pipeline" in sweeps:
        for method in ("EdgeShard", "shardnet auto, private"):
            yield measure("pipeline", method, "AGX Orin", MBITS_PER_S[0], options)


def measure(sweep: str, method: str, source: str, mbit_per_s: float, options: argparse.Namespace) -> Row:
    """A bed of its own, as profiles and links are measured anew on each."""
    asked, others = METHODS[method]
    is_pipeline = sweep == "pipeline"
    published = PUBLISHED.get((sweep, method, mbit_per_s), "")
    points = [Point(DECODE, 1, 16, options.tokens)]
    points += [Point(SESSIONS, NUM_AT_ONCE, 16, options.tokens)] * is_pipeline
    if is_pipeline:
        asked = {**asked, "objective": "throughput", "in_flight": NUM_AT_ONCE}
    with bed(source, mbit_per_s, others) as emulated:
        try:
            model = load(emulated.cluster, asked)
        except DoesNotFit:
            return Row(sweep, method, source, mbit_per_s, None, None, None, "", published)
        turns = BenchOptions(repetitions=options.turns)
        found = measure_points(model, points, turns, GenerationOptions(), silent, reads_power=False)
    one = found[0]
    predicted_ms = None if one.predicted_lap_s is None else 1e3 * one.predicted_lap_s
    gain = rate(found[1]) / rate(one) if is_pipeline else None
    placed = ", ".join(f"{device} {units}" for device, units in zip(one.devices, one.num_units, strict=True))
    return Row(sweep, method, source, mbit_per_s, 1e3 / rate(one), predicted_ms, gain, placed, published)


def load(cluster: shardnet.Cluster, asked: dict[str, Any]) -> Model:
    calm = {"standby": "none", "rebalance": False, "progress": silent, "context_tokens": 128}
    return cluster.load(MODEL, dtype=DTYPE, **calm, **asked)


def bed(source: str, mbit_per_s: float, others: tuple[str, ...]) -> Bed:
    slowdowns = {"source": SLOWDOWN[source], "agx": SLOWDOWN["AGX Orin"], "cloud": SLOWDOWN["cloud"]}
    devices = [ScriptDevice(name, slowdowns[name]) for name in ("source", *others)]
    roads = dict.fromkeys(permutations([device.name for device in devices], 2), road(EDGE_MBIT_PER_S))
    for pair in roads:
        if "cloud" in pair:
            roads[pair] = road(mbit_per_s if "source" in pair else TO_CLOUD_MBIT_PER_S)
    at_source = Road(1e9 / 8, 0.0)  # who asks is on the source
    roads[COORDINATOR, "source"] = roads["source", COORDINATOR] = at_source
    return Bed(devices, roads, are_limited=False)


def road(mbit_per_s: float) -> Road:
    """As long for our hidden states as theirs took."""
    return Road(mbit_per_s * 1e6 / 8 * SCALE, HOP_S)


def rate(measured: Measured) -> float:
    return statistics.median(turn.tokens_per_s for turn in measured.turns)


def as_line(row: Row) -> str:
    numbers = [row.ms_per_token, row.predicted_ms, row.gain]
    shown = ["" if number is None else f"{number:.3g}" for number in numbers]
    if row.ms_per_token is None:
        shown[0] = "does not fit"
    cells = [row.sweep, row.method, row.source, f"{row.mbit_per_s:g}", *shown, row.published, row.placed]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
