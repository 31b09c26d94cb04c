"""Products with weights of few bits: ours in C beside PyTorch's own, for the matrices of a small and a larger model.

    python tests/bench/bench_kernels.py [--rows 1,8,256] [--turns 9] [--json FILE]

On one thread. Each matrix is there many times, more than a processor caches, and each turn multiplies with all of them,
so that weights are read from memory as in decoding. Ways take turns, and what is compared is the median over turns of
the ratio within a turn. Times are those of the thread, not of the clock: others may use the machine meanwhile, though
caches and memory are shared with them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from shardnet.process.cache_folder import cache_folder
from shardnet.quantised.grouped import Grouped
from shardnet.quantised.native.compiling import WhyNot
from shardnet.quantised.native.packing import pack
from shardnet.quantised.native.products import Native, build

MODELS = {
    "SmolLM2-135M": [(960, 576), (576, 576), (3072, 576), (576, 1536), (49152, 576)],
    "Llama, 1.1 B": [(2560, 2048), (2048, 2048), (11264, 2048), (2048, 5632), (32000, 2048)],
}
ROWS = (1, 2, 4, 8, 16, 64, 256, 512)
GROUP = 32
MORE_THAN_CACHES_BYTES = 96 << 20
MOST_BYTES = 400 << 20
MANY_ROWS = 64
"""From so many on products are bound by reckoning: two copies of a matrix are enough."""
BASELINE = "int4pack"

Product = Callable[[Tensor, int], Tensor]
"""Of rows, with the copy of this number."""


def ways(native: Native | None, num_outputs: int, num_inputs: int, num_rows: int) -> dict[str, Product]:
    """What multiplies, each with so many copies of a weight of this shape that it counts round through."""
    codes = torch.randint(0, 256, (num_outputs, num_inputs), dtype=torch.uint8)
    scales = torch.rand(num_outputs, num_inputs // GROUP).mul_(0.01)
    found: dict[str, Product] = {}

    def enough(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
        num_bytes = sum(tensor.nbytes for tensor in tensors)
        wanted = 2 if num_rows >= MANY_ROWS else 1 + MORE_THAN_CACHES_BYTES // num_bytes
        return [tuple(each.clone() for each in tensors) for _ in range(min(wanted, max(MOST_BYTES // num_bytes, 2)))]

    for bits in (4, 8) if native else ():
        packed = pack(Grouped(codes & (2**bits - 1), scales, scales * -(2 ** (bits - 1)), bits))
        copies = [packed._replace(blocks=blocks) for (blocks,) in enough(packed.blocks)]
        found[f"native q{bits}"] = lambda rows, i, own=copies: native.product(rows, own[i % len(own)])
    packed4 = torch.ops.aten._convert_weight_to_int4pack_for_cpu((codes & 15).int(), 1)
    numbers = torch.stack((scales, scales), -1).transpose(0, 1).contiguous().bfloat16()
    fours = enough(packed4, numbers)
    int4pack = torch.ops.aten._weight_int4pack_mm_for_cpu
    found[BASELINE] = lambda rows, i: int4pack(rows, fours[i % len(fours)][0], GROUP, fours[i % len(fours)][1])
    eights, scale = enough(codes.to(torch.int8)), torch.rand(num_outputs).bfloat16()
    found["int8pack"] = lambda rows, i: torch.ops.aten._weight_int8pack_mm(rows, eights[i % len(eights)][0], scale)
    wide = enough(torch.randn(num_outputs, num_inputs).bfloat16())
    found["bfloat16"] = lambda rows, i: F.linear(rows, wide[i % len(wide)][0])
    return found


def seconds(product: Product, rows: Tensor, num_products: int, first: int) -> float:
    """Of one product."""
    before = time.thread_time()
    for i in range(first, first + num_products):
        product(rows, i)
    return (time.thread_time() - before) / num_products


def measure(native: Native | None, shape: tuple[int, int], num_rows: int, turns: int) -> dict[str, list[float]]:
    """Seconds of one product, by way and turn."""
    rows = torch.randn(num_rows, shape[1]).bfloat16()
    each = ways(native, *shape, num_rows)
    num_products = max(1, min(32, int(2e9 / (shape[0] * shape[1] * num_rows))))
    times: dict[str, list[float]] = {name: [] for name in each}
    for product in each.values():
        seconds(product, rows, 1, 0)
    for turn in range(turns):
        for name, product in each.items():
            times[name].append(seconds(product, rows, num_products, turn * num_products))
    return times


def table(results: Sequence[dict]) -> str:
    names = list(results[0]["median_us"])
    lines = [
        "| N x K | rows | " + " | ".join(f"{name}, us" for name in names) + f" | q4 to {BASELINE} | q4 to bfloat16 |"
    ]
    lines.append("|---|--:|" + "--:|" * (len(names) + 2))
    for each in results:
        cells = [f"{each['median_us'][name]:.0f}" for name in names]
        ratios = [f"{each['ratio'][to]:.2f}" if each["ratio"] else "" for to in (BASELINE, "bfloat16")]
        lines.append(f"| {each['shape']} | {each['rows']} | " + " | ".join([*cells, *ratios]) + " |")
    return "\n".join(lines)


def result(shape: tuple[int, int], num_rows: int, times: dict[str, list[float]]) -> dict:
    own = times.get("native q4", [])
    return {
        "shape": f"{shape[0]}x{shape[1]}",
        "rows": num_rows,
        "median_us": {name: statistics.median(own) * 1e6 for name, own in times.items()},
        "ratio": {to: statistics.median(theirs / ours for theirs, ours in zip(times[to], own)) for to in times if own},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(map(str, ROWS)))
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--model", choices=list(MODELS), action="append", help="both by default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    built = build(cache_folder() / "native")
    native = None if isinstance(built, WhyNot) else built
    print(f"torch {torch.__version__}, {built.way if native else built.reason}", flush=True)
    results = []
    for model in arguments.model or MODELS:
        print(f"\n{model}\n", flush=True)
        own = []
        for shape in MODELS[model]:
            wanted = map(int, arguments.rows.split(","))
            own += [result(shape, rows, measure(native, shape, rows, arguments.turns)) for rows in wanted]
        print(table(own), flush=True)
        results += [{"model": model, **each} for each in own]
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
