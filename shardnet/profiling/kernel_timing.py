"""What was timed of the kernels that could hold a matrix of few bits, and which is best by that. Pure.

Times nothing itself: see `kernel_trials`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from shardnet.described.schema import require
from shardnet.foreign.bounds import BYTES, SECONDS, Amount, Count
from shardnet.plan import KernelOrder

ROWS = (1, 4, 16, 256)
"""That are multiplied at once: a token, tokens of a few sessions or guesses, and chunks of prompts."""
COUNTS = (2, 1, 1, 1)
"""How much the times of each count: one conversation's tokens are what most devices work at."""
WORTH_IT = 1.1
"""So much better than one that comes before it must a kernel be: where `native` has all matrices of a block, it does
more than products there, and times of a busy machine are not exact."""


@dataclass(frozen=True)
class KernelTiming:
    """One kernel and one matrix."""

    kernel: str
    bits: Annotated[int, Count(1, 8)]
    group: Annotated[int, Count(0, 2**31)]
    rounds_activations: bool
    num_outputs: Annotated[int, Count(1, 2**40)]
    num_inputs: Annotated[int, Count(1, 2**40)]
    num_bytes: Annotated[float, BYTES]
    """What the matrix takes of memory."""
    seconds: Annotated[tuple[float, ...], Amount(SECONDS.most, above_zero=True)]
    """Of a product, for each of `ROWS`."""

    def __post_init__(self) -> None:
        require(len(self.seconds) == len(ROWS), f"seconds must be {len(ROWS)} times.")

    @property
    def matrix(self) -> tuple[int, int, bool, int, int]:
        """Which matrix: the fields that orders begin with."""
        return self.bits, self.group, self.rounds_activations, self.num_outputs, self.num_inputs

    @property
    def cost(self) -> float:
        """The mean of its times, multiplied by what it takes of memory: a tenth of either is worth as much."""
        logarithms = sum(count * math.log(each) for count, each in zip(COUNTS, self.seconds, strict=True))
        return math.exp(logarithms / sum(COUNTS)) * max(self.num_bytes, 1.0)


def orders_of(timings: Sequence[KernelTiming]) -> tuple[KernelOrder, ...]:
    """The kernels of each matrix, the best first.

    Args:
        timings: those of one matrix in the order in which kernels are taken where nothing was timed.
    """
    by_matrix: dict[tuple[int, int, bool, int, int], list[KernelTiming]] = {}
    for timing in timings:
        by_matrix.setdefault(timing.matrix, []).append(timing)
    return tuple(KernelOrder(*matrix, _order(of_one)) for matrix, of_one in by_matrix.items())


def _order(timings: Sequence[KernelTiming]) -> tuple[str, ...]:
    least = min(timing.cost for timing in timings)
    first = next(timing for timing in timings if timing.cost <= WORTH_IT * least)
    others = sorted((timing for timing in timings if timing is not first), key=lambda timing: timing.cost)
    return tuple(timing.kernel for timing in (first, *others))


def rows_of(timings: Sequence[KernelTiming]) -> list[dict[str, Any]]:
    """Plain values for JSON: what was timed, and what is chosen by it."""
    chosen = {order[:-1]: order.kernels[0] for order in orders_of(timings)}
    return [
        {
            "kernel": each.kernel,
            "weights": _weights(each),
            "outputs": each.num_outputs,
            "inputs": each.num_inputs,
            "num_bytes": each.num_bytes,
            "us": {str(rows): seconds * 1e6 for rows, seconds in zip(ROWS, each.seconds, strict=True)},
            "chosen": chosen[each.matrix] == each.kernel,
        }
        for each in timings
    ]


def lines_of(timings: Sequence[KernelTiming]) -> list[str]:
    """The same as a table for a person."""
    rows = rows_of(timings)
    if not rows:
        return []
    names = [f"{rows} rows" if rows > 1 else "1 row" for rows in ROWS]
    lines = [f"{'weights':<17}{'matrix':<14}{'kernel':<14}" + "".join(f"{name:>11}" for name in names)]
    for row in rows:
        matrix = f"{row['outputs']}x{row['inputs']}"
        times = "".join(f"{us:>8.0f} us" for us in row["us"].values())
        mark = "  chosen" if row["chosen"] else ""
        lines.append(f"{row['weights']:<17}{matrix:<14}{row['kernel']:<14}{times}{mark}")
    return lines


def _weights(timing: KernelTiming) -> str:
    group = f"4 bits in {timing.group}s" if timing.bits == 4 else f"{timing.bits} bits"
    return f"{group} by 8" if timing.rounds_activations else group
