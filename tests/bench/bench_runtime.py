"""The runtime beside `transformers` `generate` in one process: speed, hops, memory. Writes docs/benchmarks/.

    python tests/bench/bench_runtime.py [--quick] [--model M] [--devices 3] [--threads 1]

Both sides run in the same run, in turn, each with the other idle. The machine may be shared and change its speed from
one second to the next, so turns are short and ratios are the medians of those of neighbouring turns. The bars are those
that the project set itself: see the last column.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import platform
import socket
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import transformers
from bare_rpc import BareRpc
from baseline import Baseline
from session_rates import rate_of_several

import shardnet
from shardnet.cluster.model import Model
from shardnet.loader import open_model
from shardnet.loader.sources import EMBEDDED_NAME

sys.path.insert(0, str(Path(__file__).parents[1]))
from whole_embedded import save_whole_embedded

TURNS = 4
"""How often both sides decode in one round."""
REPORTS = Path(__file__).parents[2] / "docs" / "benchmarks"


@dataclass
class Row:
    """One line of the report."""

    what: str
    value: str
    against: str
    ratio: float
    bar: str
    is_met: bool


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="speed, hop, memory or sessions")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and tokens; no report is written")
    options = parser.parse_args()
    rows: list[Row] = []
    sections: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
        "speed": measure_speed,
        "memory": measure_memory,
        "sessions": measure_sessions,
    }
    for name, measure in sections.items():
        if options.only in ("", name):
            rows += measure(options)
    text = as_markdown(rows, options)
    print(text)
    if not options.quick and not options.only:
        REPORTS.mkdir(parents=True, exist_ok=True)
        (REPORTS / f"runtime_{datetime.date.today()}.md").write_text(text)
    return 0 if all(row.is_met for row in rows) else 1


def measure_speed(options: argparse.Namespace) -> list[Row]:
    """Decoding one and eight streams, prefill, and what a hop costs."""
    files = open_model(options.model, options.dtype)
    rounds = 2 if options.quick else options.rounds
    new = 32 if options.quick else 48
    short = list(range(100, 116))
    long = [(37 * i) % 40_000 + 100 for i in range(512)]
    decode, decode_alone, eight, prefill, prefill_alone = ([] for _ in range(5))  # type: list[float]
    hops, bare, packed = ([] for _ in range(3))  # type: list[float]
    with (
        tempfile.TemporaryDirectory() as folder,
        Baseline(whole_folder(options, files.folder, Path(folder)), options.dtype, options.threads) as rival,
        BareRpc(free_port()) as stock,
        shardnet.Cluster.local(options.devices, threads_per_device=options.threads) as cluster,
    ):
        model = cluster.load(options.model, weights=options.dtype, record_spans=True)
        model.eos_ids = ()  # every run makes the same number of tokens
        stage_bytes = sum(report.weight_bytes for report in model.report()) // options.devices
        for _ in range(rounds + 1):
            for _ in range(TURNS):
                alone = rival.generate(short, new)
                decode_alone.append((new - 1) / alone["decode_s"])
                model.reset_report()
                [result] = model.generate([short], max_new_tokens=new)
                decode.append(result.tokens_per_s)
                hops.append(hop_s(model))
                bare.append(stock.hop_s(stage_bytes, "tensor"))
                packed.append(stock.hop_s(stage_bytes, "packed"))
                eight.append(rate_of_several(model, short, new, 8))
            prefill_alone.append(rival.generate(long, 2)["prefill_s"])
            [result] = model.generate([long], max_new_tokens=2)
            prefill.append(result.time_to_first_token_s)
    # the first round warms up
    decode, decode_alone, eight, prefill, prefill_alone, hops, bare, packed = (
        series[len(series) // (rounds + 1) :]
        for series in (decode, decode_alone, eight, prefill, prefill_alone, hops, bare, packed)
    )
    m = statistics.median
    added_ms = m([(hop - one) * 1e3 for hop, one in zip(hops, bare, strict=True)])
    return [
        row("decode, one stream", "tokens/s", decode, decode_alone, 0.85),
        row("decode, eight sessions against one", "tokens/s", eight, decode, 3.0),
        row("prefill of 512 tokens", "tokens/s", [512 / s for s in prefill], [512 / s for s in prefill_alone], 0.9),
        Row(
            "a hop against a bare RPC hop of the same payload between the same amounts of computing",
            f"{m(hops) * 1e3:.3f} ms",
            f"{m(bare) * 1e3:.3f} ms",
            m(hops) / m(bare),
            f"adds at most 0.25 ms (adds {added_ms:.3f}; the bare one packed into bytes: {m(packed) * 1e3:.3f} ms)",
            added_ms <= 0.25,
        ),
    ]


def whole_folder(options: argparse.Namespace, folder: Path, made: Path) -> str:
    """The model as `transformers` loads it: floats in a folder."""
    if options.model == EMBEDDED_NAME:
        folder = save_whole_embedded(made, getattr(torch, options.dtype))
    return str(folder)


def hop_s(model: Model) -> float:
    """Seconds from the end of one stage's computation to the start of the next one's: median over a run of one session.

    The devices are processes of one machine and share its clock. Sampling is between two computations and counts.
    """
    timeline = model._deployment.timeline()
    tracks = timeline.tracks.values()
    spans = [span for track in tracks for span in track if span.kind == "compute" and span.num_tokens == 1]
    spans.sort(key=lambda span: span.start_ns)
    return statistics.median(later.start_ns - span.end_ns for span, later in itertools.pairwise(spans)) / 1e9


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure_memory(options: argparse.Namespace) -> list[Row]:
    """Peak resident memory of each worker against an idle one, and bytes read from the checkpoint."""
    rows = []
    with shardnet.Cluster.local(options.devices, threads_per_device=options.threads) as cluster:
        idle = {answer["device"]: answer["peak_rss_bytes"] for answer in cluster.describe()}
        model = cluster.load(options.model, dtype="float32")
        streams = [model.stream(list(range(100, 400)), max_new_tokens=64) for _ in range(4)]
        for stream in streams:
            for _ in stream._session:
                pass
        per_token = {
            stage.device: sum(
                unit.kv_bytes_per_token for unit in model.profile.units[stage.first_unit : stage.last_unit + 1]
            )
            for stage in model.plan.stages
        }
        for report in model.report():
            own = report.weight_bytes + 4 * 364 * per_token[report.device]
            extra = report.peak_rss_bytes - idle[report.device]
            rows.append(
                Row(
                    f"memory of {report.device} above an idle worker (float32, 4 sessions of 364 tokens)",
                    f"{extra / 2**20:.1f} MiB",
                    f"{own / 2**20:.1f} MiB weights and KV",
                    extra / own,
                    "at most 1.15",
                    extra <= 1.15 * own,
                )
            )
            ratio = report.bytes_read / report.weight_bytes
            rows.append(
                Row(
                    f"bytes that {report.device} read from the checkpoint",
                    f"{report.bytes_read / 2**20:.1f} MiB",
                    f"{report.weight_bytes / 2**20:.1f} MiB weights",
                    ratio,
                    "at most 1.02",
                    ratio <= 1.02,
                )
            )
    return rows


def measure_sessions(options: argparse.Namespace) -> list[Row]:
    """Many sessions in a row: memory, threads and processes before and after."""
    num_sessions = 60 if options.quick else 500
    rows = []
    with shardnet.Cluster.local(options.devices, threads_per_device=options.threads) as cluster:
        model = cluster.load(options.model, weights=options.dtype)

        def state() -> tuple[list[int], list[int], int]:
            described = cluster.describe()
            own = psutil.Process()
            sizes = [answer["rss_bytes"] for answer in described] + [own.memory_info().rss]
            threads = [answer["num_os_threads"] for answer in described] + [own.num_threads()]
            return sizes, threads, len(own.children(recursive=True))

        prompts = [[(7 * i + 3 * j) % 40_000 + 100 for j in range(4 + i % 40)] for i in range(num_sessions)]
        for prompt in prompts[:50]:
            model.generate([prompt], max_new_tokens=4)
        before, threads_before, processes_before = state()
        for prompt in prompts:
            model.generate([prompt], max_new_tokens=4)
        after, threads_after, processes_after = state()
        names = [*(answer["device"] for answer in cluster.describe()), "the coordinator"]
        for name, one, other in zip(names, after, before, strict=True):
            rows.append(
                Row(
                    f"memory of {name} after {num_sessions} sessions in a row (and 50 before them)",
                    f"{one / 2**20:.1f} MiB",
                    f"{other / 2**20:.1f} MiB",
                    one / other,
                    "at most 1.02",
                    one <= 1.02 * other,
                )
            )
        rows.append(
            Row(
                "threads and processes after them",
                f"{sum(threads_after)} and {processes_after}",
                f"{sum(threads_before)} and {processes_before}",
                sum(threads_after) / sum(threads_before),
                "no more",
                sum(threads_after) <= sum(threads_before) and processes_after <= processes_before,
            )
        )
    return rows


def row(what: str, unit: str, ours: list[float], theirs: list[float], bar: float) -> Row:
    a, b = statistics.median(ours), statistics.median(theirs)
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    spread = f"{min(ours):.1f} to {max(ours):.1f}", f"{min(theirs):.1f} to {max(theirs):.1f}"
    values = f"{a:.1f} {unit} ({spread[0]})", f"{b:.1f} {unit} ({spread[1]})"
    return Row(what, values[0], values[1], ratio, f"at least {bar}", ratio >= bar)


def as_markdown(rows: list[Row], options: argparse.Namespace) -> str:
    lines = [
        f"# The runtime, {datetime.date.today()}",
        "",
        (
            f"`{' '.join(['python', 'tests/bench/bench_runtime.py', *sys.argv[1:]])}` on {platform.machine()} with "
            f"{os.cpu_count()} cores, torch {torch.__version__}, transformers {transformers.__version__}."
        ),
        "",
        (
            f"{options.model}, {options.devices} local devices as processes on one machine, {options.threads} "
            f"thread(s) for each of them and for `transformers`, {options.dtype} unless the row says otherwise. "
            "Median (spread); ratios are the medians of those of neighbouring turns."
        ),
        "",
        "| what | shardnet | against | ratio | bar | met |",
        "|---|---|---|--:|---|---|",
    ]
    lines += [
        f"| {r.what} | {r.value} | {r.against} | {r.ratio:.3f} | {r.bar} | {'yes' if r.is_met else '**no**'} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
