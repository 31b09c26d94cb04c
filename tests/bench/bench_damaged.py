"""What damaged inputs cost: processor time and memory of the real commands, each in a process of its own.

    python tests/bench/bench_damaged.py [--inputs 500] [--seed 1] [--worst 5]

Inputs are drawn by the strategies of the tests: problem, cluster, model and plan files and options
(tests/damaged_problems.py), and configurations, headers, indices, tokenizers and GGUF files
(tests/random_damage.py). Some damage is harmless; the commands that then work are counted apart, since they
start devices. Time is that of the processor, user and system of the command and all its children: clocks say little on
a shared machine. Exit code 1 where a refusal is not one sentence with exit code 2 or 3, takes more than 5 s or 500 MB,
or leaves a process behind.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import damaged_problems as problems  # noqa: E402
import random_damage as models  # noqa: E402
from damaged_models import save_good_model  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tiny_gguf import write_gguf  # noqa: E402

SHARDNET = str(Path(sys.executable).parent / "shardnet")
MOST_S = 5.0
MOST_BYTES = 500e6
PATIENCE_S = 300
MEASURED = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stderr, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
"""
"""A child's peak counts the memory of the process that forked it: a small one measures."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    kind: str
    exit_code: int
    said: str
    processor_s: float
    peak_bytes: int
    num_left: int
    """Processes that it left behind."""

    def fault(self) -> str | None:
        """What is wrong with a refusal; None where nothing is."""
        lines = [line for line in self.said.splitlines() if line.startswith("shardnet: ")]
        if self.exit_code not in (0, 2, 3) or "Traceback" in self.said or "mistake in shardnet" in self.said:
            return f"exit code {self.exit_code}"
        if self.num_left:
            return f"{self.num_left} processes left"
        if self.exit_code and len(lines) != 1:
            return f"{len(lines)} sentences"
        if self.exit_code and (self.processor_s > MOST_S or self.peak_bytes > MOST_BYTES):
            return "too much"
        return None


def run(kind: str, arguments: list[str], folder: Path) -> Ended:
    """Run one command over files in `folder`."""
    environment = os.environ | {
        "SHARDNET_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-S", "-c", MEASURED, SHARDNET, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE_S, check=True)
    code, said, processor_s, peak_bytes = json.loads(done.stdout)
    left = [each for each in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(each.info["cmdline"] or ())]
    return Ended(kind, code, said, processor_s, peak_bytes, len(left))


def draw(strategy: Callable[[st.DataObject], Any], number: int, of_seed: int) -> Iterator[Any]:
    """So many results of what draws from hypothesis."""
    found: list[Any] = []
    quiet = settings(
        max_examples=number,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )

    @seed(of_seed)
    @quiet
    @given(st.data())
    def collect(data: st.DataObject) -> None:
        found.append(strategy(data))

    collect()
    yield from found[:number]


def commands(number: int, of_seed: int) -> Iterator[Ended]:
    """`plan` and `simulate`."""

    def one(data: st.DataObject) -> Ended:
        with tempfile.TemporaryDirectory() as name:
            arguments = data.draw(problems.commands(Path(name)))
            return run(arguments[0], arguments, Path(name))

    yield from draw(one, number, of_seed)


def generations(number: int, of_seed: int) -> Iterator[Ended]:
    """`generate` from a damaged folder or GGUF file."""
    with tempfile.TemporaryDirectory() as name:
        good = {variant: save_good_model(variant, Path(name) / "good" / variant) for variant in models.VARIANTS}
        kinds = (("llama", "F16"), ("llama", "Q8_0"), ("qwen3moe", "Q4_0"))
        gguf = {f"{model}-{kind}": write_gguf(Path(name) / f"{model}-{kind}", model, kind) for model, kind in kinds}
        raw = {key: path.read_bytes() for key, path in gguf.items()}

        def one(data: st.DataObject) -> Ended:
            kind = data.draw(st.sampled_from((*models.DAMAGES, "gguf")))
            with tempfile.TemporaryDirectory(dir=name) as place:
                model = Path(place) / ("x.gguf" if kind == "gguf" else "model")
                if kind == "gguf":
                    models.damage_a_gguf(raw, model, data)
                else:
                    models.DAMAGES[kind](good, model, data)
                asked = ["generate", "--model", str(model), "--prompt", "once", "--devices", "1", "-n", "1"]
                return run(f"generate, {kind}", [*asked, "--dtype", "float32"], Path(place))

        yield from draw(one, number, of_seed)


def told(ended: list[Ended], num_worst: int) -> int:
    """Print the table and the worst; returns how many were wrong."""
    print("| inputs | refused | worked | processor s: median, worst refusal | MB: median, worst refusal |")
    print("|---|--:|--:|--:|--:|")
    for kind in ("all", *dict.fromkeys(each.kind for each in ended)):
        these = [each for each in ended if kind in ("all", each.kind)]
        refused = [each for each in these if each.exit_code]
        seconds, megabytes = [each.processor_s for each in refused], [each.peak_bytes / 1e6 for each in refused]
        costs = "-", "-"
        if refused:
            costs = (
                f"{statistics.median(seconds):.2f}, {max(seconds):.2f}",
                f"{statistics.median(megabytes):.0f}, {max(megabytes):.0f}",
            )
        print(f"| {kind} | {len(refused)} | {len(these) - len(refused)} | {costs[0]} | {costs[1]} |")
    refusals = sorted((each for each in ended if each.exit_code), key=lambda each: -each.processor_s)
    for each in refusals[:num_worst]:
        print(f"{each.processor_s:.2f} s, {each.peak_bytes / 1e6:.0f} MB, {each.kind}: {each.said.strip()[-150:]}")
    wrong = [(fault, each) for each in ended if (fault := each.fault()) is not None]
    for fault, each in wrong:
        print(
            f"WRONG: {fault}: {each.kind}, {each.processor_s:.2f} s, {each.peak_bytes / 1e6:.0f} MB: {each.said[-400:]}"
        )
    return len(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=500, help="half of them model files, half everything else")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worst", type=int, default=5, help="how many of the dearest refusals are shown")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    half = options.inputs // 2
    ended = [*generations(half, options.seed), *commands(options.inputs - half, options.seed)]
    return 1 if told(ended, options.worst) else 0


if __name__ == "__main__":
    sys.exit(main())
