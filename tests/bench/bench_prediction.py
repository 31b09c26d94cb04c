"""Predicted against measured: laps of plans on emulated clusters. Writes docs/benchmarks/. Needs root.

    python tests/bench/bench_prediction.py [--quick] [--rounds 3] [--tokens 12]

On each cluster every method plans by the profiles that `Cluster.load` takes; each different plan is loaded, and all of
them decode in turn, so that what else the machine does meets all alike. Predicted is `plan.lap_s`, as `Cluster.load`
gives it; measured is the median time from one token to the next.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations
from pathlib import Path

import torch

from shardnet import Cluster
from shardnet.cluster import survey
from shardnet.cluster.model import Model
from shardnet.described.clusters import GIB
from shardnet.errors import DoesNotFit
from shardnet.plan import Plan
from shardnet.simulator.script import Road, ScriptDevice

sys.path.insert(0, str(Path(__file__).parents[1]))
from testbed.bed import Bed, enter_own_network, in_own_network, why_not
from whole_embedded import save_whole_embedded

REPORTS = Path(__file__).parents[2] / "docs" / "benchmarks"
METHODS = ("auto", "solo", "even", "memory", "edgeshard", "lingualinked", "spread")
NUM_BLOCKS = 12
CONTEXT_TOKENS = 64
PROMPT = list(range(100, 116))
TIE = 0.05
"""Laps that differ by less count as equal."""
PROFILE_S = 8.0
"""Profiles are made anew on each cluster, right before the runs: a shared machine's speed changes by the minute."""

ABOUT = """# Predicted against measured, on emulated clusters

`python tests/bench/bench_prediction.py`, {date}, {took_s:.0f} s, on a machine of {cores} cores shared with other work
(load average {least:.1f} to {most:.1f}).

Everything here is emulated: devices are processes, each in a network namespace of its own; a device 1/k computes
k times as long as one core of this machine; links hold packets for as long as their rate and latency say; memory is
what a device says. The model is the first {blocks} blocks of SmolLM2-135M-Instruct with its embedding and head, in
bfloat16. *Predicted* is the lap that `Cluster.load` gives, from profiles of devices and links that it measured itself;
each kind of device is profiled for {profile_s:.0f} s on each cluster, right before the runs. *Measured* is the median
time between tokens of one stream, {rounds} rounds of {tokens} tokens, all plans of a cluster in turn. `a5 b9`: 5 units
on a, then 9 on b. Methods with the same plan share a row."""


@dataclass(frozen=True)
class Setup:
    """An emulated cluster to measure on."""

    devices: tuple[ScriptDevice, ...]
    road: Road
    """Of all pairs that `roads` does not name."""
    roads: tuple[tuple[str, str, Road], ...] = ()

    def __str__(self) -> str:
        devices = ", ".join(
            f"{one.name} 1/{one.slowdown:g} {(one.memory_bytes or 0) / 1e6:.0f} MB" for one in self.devices
        )
        links = [f"{_link(self.road)}", *(f"{one}-{other} {_link(road)}" for one, other, road in self.roads)]
        return f"{devices}; {', '.join(links)}"

    def bed(self, cache: Path) -> Bed:
        roads = dict.fromkeys(permutations([device.name for device in self.devices], 2), self.road)
        for one, other, road in self.roads:
            roads[one, other] = roads[other, one] = road
        return Bed(self.devices, roads, are_limited=False, cache_dir=cache)


def _setup(devices: str, mbits_per_s: float, latency_ms: float, **links: tuple[float, float]) -> Setup:
    """`devices` such as "3 6:150": slowdown, and MB where it is not 600. Links such as ab=(5, 10)."""
    made = []
    for name, text in zip("abcd", devices.split(), strict=False):
        slowdown, _, megabytes = text.partition(":")
        made.append(ScriptDevice(name, float(slowdown), float(megabytes or 600) * 1e6 / GIB))
    pairs = tuple((pair[0], pair[1], _made(*values)) for pair, values in links.items())
    return Setup(tuple(made), _made(mbits_per_s, latency_ms), pairs)


def _made(mbits_per_s: float, latency_ms: float) -> Road:
    return Road(mbits_per_s * 1e6 / 8, latency_ms / 1e3)


def _link(road: Road) -> str:
    return f"{road.bytes_per_s * 8 / 1e6:g} Mbit/s {road.latency_s * 1e3:g} ms"


# The model takes 199 MB (7 MB a block, 57 MB each for embedding and head); 0.8 of a device's memory is planned with.
SETUPS = (
    _setup("3 5", 10, 2),
    _setup("5 5", 100, 0),
    _setup("8 3", 2, 5),
    _setup("3:190 3:220", 20, 1),
    _setup("3:150 8:300", 5, 2),
    _setup("3 5 8", 50, 1),
    _setup("8 5 3", 10, 3, bc=(100, 0)),
    _setup("5:120 3:150 5:200", 20, 2),
    _setup("3:150 3:120 8:400", 5, 5, ab=(50, 1)),
    _setup("8:300 5:120 3:120", 2, 1, ab=(20, 2), bc=(20, 2)),
    _setup("5:120 3:120 8:150 3:110", 50, 1),
    _setup("3:110 5:110 5:160 8:250", 10, 2, ab=(100, 0), cd=(100, 0)),
)


@dataclass
class Row:
    """One plan on one cluster."""

    methods: list[str]
    plan: Plan
    laps_s: list[float]

    @property
    def predicted_s(self) -> float:
        assert self.plan.lap_s is not None
        return self.plan.lap_s

    @property
    def measured_s(self) -> float:
        return statistics.median(self.laps_s)

    @property
    def ratio(self) -> float:
        return self.predicted_s / self.measured_s


@dataclass
class Result:
    """All plans on one cluster."""

    setup: Setup
    rows: list[Row]
    load_average: float

    def wrong_pairs(self) -> list[tuple[Row, Row]]:
        """Pairs of plans that differ by more than a tie, and whose order was predicted wrongly."""
        return [
            (one, other)
            for one, other in combinations(self.rows, 2)
            if not _tie(one.measured_s, other.measured_s)
            and not _tie(one.predicted_s, other.predicted_s)
            and (one.measured_s < other.measured_s) != (one.predicted_s < other.predicted_s)
        ]


def _tie(one: float, other: float) -> bool:
    return abs(one - other) <= TIE * max(one, other)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=12, help="in each round")
    parser.add_argument("--only", default="", help="numbers of clusters, such as 1,5")
    parser.add_argument("--quick", action="store_true", help="two clusters; no report is written")
    options = parser.parse_args()
    if not in_own_network():
        if (reason := why_not()) is not None:
            print(f"left out: {reason}", file=sys.stderr)
            return 0
        return enter_own_network()
    survey.PROFILE_S = PROFILE_S
    start_s = time.monotonic()
    chosen = [int(number) for number in options.only.split(",") if number] or range(1, len(SETUPS) + 1)
    setups = [SETUPS[number - 1] for number in ((1, 8) if options.quick else chosen)]
    with tempfile.TemporaryDirectory(prefix="shardnet-prediction-") as folder:
        model = cut_model(Path(folder, "model"))
        results = []
        for setup in setups:
            with tempfile.TemporaryDirectory(dir=folder) as cache:
                results.append(measure(setup, model, Path(cache), options))
            print(as_lines(results[-1]), flush=True)
    text = as_markdown(results, options, time.monotonic() - start_s)
    print(text)
    if not options.quick and not options.only:
        (REPORTS / f"prediction_{datetime.date.today()}.md").write_text(text)
    return 0


def cut_model(folder: Path) -> Path:
    """The first blocks of SmolLM2-135M-Instruct as a model of their own: the same units, and laps that are shorter."""
    from safetensors.torch import load_file, save_file

    whole = save_whole_embedded(folder.with_name("whole"), torch.bfloat16)
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((whole / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": NUM_BLOCKS}))
    tensors = {}
    for file in whole.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            parts = name.split(".")
            if "layers" not in parts or int(parts[parts.index("layers") + 1]) < NUM_BLOCKS:
                tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def measure(setup: Setup, model: Path, cache: Path, options: argparse.Namespace) -> Result:
    """Plan by every method, load each different plan, and let all of them decode in turn."""
    with setup.bed(cache) as bed, ExitStack() as loaded:
        rows: list[Row] = []
        models: list[Model] = []
        for method in METHODS:
            try:
                plan, made = load(bed.cluster, model, method, cache)
            except DoesNotFit:
                continue
            same = [row for row in rows if row.plan.stages == plan.stages]
            if same:
                same[0].methods.append(method)
                made.close()
            else:
                rows.append(Row([method], plan, []))
                models.append(loaded.enter_context(made))
        for round_ in range(options.rounds + 1):
            for row, made in zip(rows, models, strict=True):
                times = decode(made, options.tokens if round_ else 3)
                row.laps_s += times if round_ else []  # the first round warms up
        return Result(setup, rows, os.getloadavg()[0])


def load(cluster: Cluster, model: Path, method: str, cache: Path) -> tuple[Plan, Model]:
    made = cluster.load(
        model, placement=method, context_tokens=CONTEXT_TOKENS, cache_dir=cache, progress=lambda *_: None
    )
    made.eos_ids = ()  # every run makes the same number of tokens
    return made.plan, made


def decode(model: Model, num_tokens: int) -> list[float]:
    """Seconds from each new token to the next; the first one comes with the prompt."""
    stream = model.stream(PROMPT, max_new_tokens=num_tokens + 2)
    times = [time.perf_counter() for _ in stream._session]
    stream.close()
    return [later - earlier for earlier, later in pairwise(times[1:])]


def as_lines(result: Result) -> str:
    rows = [
        f"  {_stages(row.plan):28} predicted {row.predicted_s * 1e3:6.1f} measured {row.measured_s * 1e3:6.1f} ms "
        f"ratio {row.ratio:.2f}  {', '.join(row.methods)}"
        for row in result.rows
    ]
    return "\n".join([f"{result.setup} (load {result.load_average:.1f})", *rows])


def _stages(plan: Plan) -> str:
    return " ".join(f"{stage.device}{stage.num_units}" for stage in plan.stages)


def as_markdown(results: list[Result], options: argparse.Namespace, took_s: float) -> str:
    rows = [row for result in results for row in result.rows]
    errors = [abs(row.ratio - 1) for row in rows]
    per_cluster = [statistics.median(abs(row.ratio - 1) for row in result.rows) for result in results]
    num_pairs = sum(len(result.rows) * (len(result.rows) - 1) // 2 for result in results)
    num_wrong = sum(len(result.wrong_pairs()) for result in results)
    right = sum(not result.wrong_pairs() for result in results)
    loads = [result.load_average for result in results]
    lines = [
        *ABOUT.format(
            date=datetime.date.today(),
            took_s=took_s,
            cores=os.cpu_count(),
            least=min(loads),
            most=max(loads),
            blocks=NUM_BLOCKS,
            profile_s=PROFILE_S,
            rounds=options.rounds,
            tokens=options.tokens,
        ).splitlines(),
        "",
        "| | |",
        "|---|---|",
        f"| clusters, plans | {len(results)}, {len(rows)} |",
        f"| median error of all plans | {statistics.median(errors):.1%} (bar: 15%) |",
        f"| median over the clusters of each one's median error | {statistics.median(per_cluster):.1%} |",
        f"| plans within 15% | {sum(error <= 0.15 for error in errors)} of {len(errors)} |",
        f"| median of predicted / measured | {statistics.median(row.ratio for row in rows):.3f} |",
        f"| clusters whose order of plans was predicted rightly (ties: {TIE:.0%}) | {right} of {len(results)} |",
        f"| pairs of plans in the wrong order | {num_wrong} of {num_pairs} |",
        "",
        "| cluster | methods | plan | predicted ms | measured ms (quartiles) | predicted / measured |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        name = f"{result.setup}"
        for row in sorted(result.rows, key=lambda row: row.measured_s):
            low, _, high = statistics.quantiles(row.laps_s, n=4)
            lines.append(
                f"| {name} | {', '.join(row.methods)} | {_stages(row.plan)} | {row.predicted_s * 1e3:.1f} | "
                f"{row.measured_s * 1e3:.1f} ({low * 1e3:.1f} to {high * 1e3:.1f}) | {row.ratio:.2f} |"
            )
            name = ""
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
