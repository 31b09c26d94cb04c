"""Which number of threads pays on this machine: timed, as more threads can be far slower than one.

Decoding is bound by reading weights, so matrices larger than the caches are multiplied by a single row.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardnet.profiling.cores import max_threads

if TYPE_CHECKING:
    import torch

MATRIX_SIDE = 2048
NUM_MATRICES = 6
SECONDS_EACH = 0.4
ROWS_OF_PREFILL = 64


@dataclass(frozen=True)
class ThreadSpeed:
    """What one number of threads gives, in float32."""

    threads: int
    decode_bytes_per_s: float
    """Weights read in multiplying them by one row, as in decoding."""
    prefill_flops: float
    """Multiplications and additions per second with many rows, as in prefill."""


def counts_to_try(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16 ... up to `most`, which is always among them."""
    steps = [1, 2, 3, *(base * 2**power for power in range(2, 12) for base in (1, 1.5))]
    return sorted({int(step) for step in steps if step <= most} | {most})


def measure_threads(progress: Callable[[str, float, float], None]) -> list[ThreadSpeed]:
    """Time every count of `counts_to_try`; takes about a second each."""
    import torch

    counts = counts_to_try(max_threads())
    before = torch.get_num_threads()
    weights = [torch.randn(MATRIX_SIDE, MATRIX_SIDE) for _ in range(NUM_MATRICES)]
    num_weights = NUM_MATRICES * MATRIX_SIDE**2
    speeds = []
    try:
        for index, threads in enumerate(counts):
            progress("timing threads", index, len(counts))
            torch.set_num_threads(threads)
            with torch.inference_mode():
                decode_s = _median_s(lambda: _through(weights, torch.ones(1, MATRIX_SIDE)))
                prefill_s = _median_s(lambda: _through(weights, torch.ones(ROWS_OF_PREFILL, MATRIX_SIDE)))
            speeds.append(
                ThreadSpeed(threads, 4 * num_weights / decode_s, 2 * ROWS_OF_PREFILL * num_weights / prefill_s)
            )
    finally:
        torch.set_num_threads(before)
    progress("timing threads", len(counts), len(counts))
    return speeds


def best_threads(speeds: list[ThreadSpeed]) -> int:
    """The fewest threads that decode within 5% of the fastest."""
    fastest = max(speed.decode_bytes_per_s for speed in speeds)
    return min(speed.threads for speed in speeds if speed.decode_bytes_per_s >= 0.95 * fastest)


def _through(weights: Sequence[torch.Tensor], row: torch.Tensor) -> torch.Tensor:
    for weight in weights:
        row = row @ weight
    return row


def _median_s(work: Callable[[], object]) -> float:
    work()
    times: list[float] = []
    while sum(times) < SECONDS_EACH or len(times) < 3:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
