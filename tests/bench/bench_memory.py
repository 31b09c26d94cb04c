"""What device processes take of memory: idle, while they load, and while they compute, beside what they should take.

    python tests/bench/bench_memory.py [--case gguf ...] [--devices 1 --devices 3] [--tokens 1500] [--json FILE]

Real devices on this machine, with profiles that were measured before. Of each process: its own memory before there is a
model (idle), the most while it loads, and the most while an answer behind a long prompt is read. What is mapped from
files does not count: it belongs to the system, which drops it when it needs the room. It is looked at every few
milliseconds; the most that was resident (`VmHWM`, files too) stands beside it.

Bars, for the models of 1.1 B: what it takes while it computes is at most idle, 1.08 times its packed weights and the
keys and values that it has reserved; the most while it loads is at most one unit above that. Memory does not depend on
what else the machine does. Linux; exit code 1 where a bar is missed.

The models: `embedded`; `gguf`, the Llama of 1.1 B that `make rivals` writes, as it is; `int4` and `w8a8`, as many
random weights in bfloat16 (safetensors, 2.2 GB, written beside it at the first call).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from shardnet import Cluster
from shardnet.loader import open_model
from shardnet.loader.safetensors_writer import SafetensorsWriter
from shardnet.progress import silent

CACHE = Path.home() / ".cache/shardnet-tests"
CHAIN = CACHE / "chain-1.1b.Q4_1.gguf"
FLOATS = CACHE / "random-1.1b.bfloat16"
CASES = {
    "embedded": ("smollm2-135m-instruct", "auto"),
    "gguf": (str(CHAIN), "auto"),
    "int4": (str(FLOATS), "int4"),
    "w8a8": (str(FLOATS), "w8a8"),
}
SMALL = "embedded"
"""Beside its weights the code that computes for the first time, and what a chunk of a prompt takes, are not small."""
MOST_OF_WEIGHTS = 1.08
MIB = 2**20
ANSWER_TOKENS = 24
OWN = ("RssAnon", "RssShmem")
LOOK_S = 0.003


@dataclass(frozen=True)
class Taken:
    """By one device, in bytes."""

    case: str
    device: str
    units: str
    idle: int
    packed: int
    kv: int
    largest_unit: int
    loading: int
    computing: int
    resident: int
    """The most of all, files and all, less what was resident before there was a model."""

    @property
    def allowed(self) -> float:
        return self.idle + MOST_OF_WEIGHTS * self.packed + self.kv

    @property
    def share(self) -> float:
        """What came above idle, keys and values, of the packed weights."""
        return (self.computing - self.idle - self.kv) / self.packed

    @property
    def is_met(self) -> bool:
        return self.computing <= self.allowed and self.loading <= self.allowed + self.largest_unit


def said(pid: int, *names: str) -> int:
    """The sum of what the system says of a process, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.partition(":")[0] in names)


class Watch:
    """Sees the most that processes take of their own. A context manager."""

    def __init__(self, pids: Iterable[int]) -> None:
        self.most = dict.fromkeys(pids, 0)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._is_over.wait(LOOK_S):
            for pid in self.most:
                self.most[pid] = max(self.most[pid], said(pid, *OWN))


def measure(case: str, num_devices: int, num_tokens: int) -> list[Taken]:
    model_name, weights = CASES[case]
    how = {"weights": weights, "context_tokens": num_tokens + ANSWER_TOKENS, "progress": silent}
    with Cluster.local(num_devices, threads_per_device=1) as cluster, cluster.load(model_name, **how):
        pass  # devices have profiles from now on
    with Cluster.local(num_devices, threads_per_device=1) as cluster:
        pids = dict(zip(cluster.devices, (int(each["pid"]) for each in cluster.describe()), strict=True))
        idle = {pid: said(pid, *OWN) for pid in pids.values()}
        resident = {pid: said(pid, "VmRSS") for pid in pids.values()}
        with ExitStack() as ends:
            with Watch(pids.values()) as loading:
                model = ends.enter_context(cluster.load(model_name, rebalance=False, standby="cold", **how))
            with Watch(pids.values()) as computing:
                stream = model.stream([300 + index % 997 for index in range(num_tokens)], max_new_tokens=ANSWER_TOKENS)
                for _ in zip(range(ANSWER_TOKENS - 2), stream, strict=False):
                    pass
                stages, units = model.report(), model.profile.units
            most = {pid: said(pid, "VmHWM") for pid in pids.values()}
            stream.close()
            return [
                Taken(
                    case=f"{case}, {num_devices} devices" if num_devices > 1 else case,
                    device=stage.device,
                    units=f"{stage.first_unit}-{stage.last_unit}",
                    idle=idle[pids[stage.device]],
                    packed=stage.weight_bytes,
                    kv=stage.kv_reserved_bytes,
                    largest_unit=max(unit.weight_bytes for unit in units[stage.first_unit : stage.last_unit + 1]),
                    loading=loading.most[pids[stage.device]],
                    computing=computing.most[pids[stage.device]],
                    resident=most[pids[stage.device]] - resident[pids[stage.device]],
                )
                for stage in stages
            ]


def write_floats(folder: Path) -> None:
    """A model of the same shape with random weights in bfloat16, a tensor at a time, whole or not at all."""
    files = open_model(str(CHAIN), "bfloat16")
    begun = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(begun, ignore_errors=True)
    shutil.copytree(files.folder, begun, ignore=shutil.ignore_patterns("*.safetensors", "gguf.json"))
    shapes = {name: place.shape for name, place in files.tensors.items()}
    draw = torch.Generator().manual_seed(0)
    with SafetensorsWriter(begun / "model.safetensors", shapes, torch.bfloat16) as writer:
        for name, shape in shapes.items():
            is_norm = len(shape) == 1
            writer.write(name, torch.ones(shape) if is_norm else torch.randn(shape, generator=draw) * 0.02)
    begun.rename(folder)


def table(results: Sequence[Taken]) -> str:
    head = "| model | device, units | idle | packed | KV | loading | computing | of packed | resident, more | bar |"
    lines = [head, "|---|---|--:|--:|--:|--:|--:|--:|--:|---|"]
    for each in results:
        sizes = (each.idle, each.packed, each.kv, each.loading, each.computing)
        shown = " | ".join(f"{size / MIB:.0f}" for size in sizes)
        name = f"{each.case} | {each.device}, {each.units}"
        met = "" if each.case.startswith(SMALL) else "met" if each.is_met else "missed"
        lines.append(f"| {name} | {shown} | {each.share:.2f} | {each.resident / MIB:.0f} | {met} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), action="append", help="all by default")
    parser.add_argument("--devices", type=int, action="append", help="1 and 3 by default")
    parser.add_argument("--tokens", type=int, default=1500, help="of the prompt")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = options.case or list(CASES)
    if {"gguf", "int4", "w8a8"} & set(cases) and not CHAIN.exists():
        print(f"There is no {CHAIN}. Run `make rivals`, or ask for --case embedded.", file=sys.stderr)
        return 2
    if {"int4", "w8a8"} & set(cases) and not FLOATS.exists():
        print(f"Writing {FLOATS}", flush=True)
        write_floats(FLOATS)
    results = []
    for case in cases:
        for num_devices in options.devices or (1, 3):
            results += measure(case, num_devices, options.tokens)
            print(table(results[-num_devices:]), flush=True)
    print(f"\nIn MiB; `of packed` is what came above idle, keys and values, and may be {MOST_OF_WEIGHTS}.\n")
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in results], indent=1))
    return 0 if all(each.is_met for each in results if not each.case.startswith(SMALL)) else 1


if __name__ == "__main__":
    sys.exit(main())
