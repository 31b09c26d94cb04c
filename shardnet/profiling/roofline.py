"""Times of what was not measured, from what was: a roofline fitted to a device's measured steps. Pure.

After Williams, Waterman and Patterson (2009, "Roofline"): a step takes the longer of reading its bytes and of doing its
arithmetic. Here an overhead for each unit comes on top, since launching a block's small operations costs a phone more
than some blocks' arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shardnet.described.model_sizes import UnitWork

_MAX_ROUNDS = 30


@dataclass(frozen=True)
class TimedWork:
    """One measured step of one unit."""

    read_bytes: float
    """Weights and KV cache that the step read."""
    flops: float
    seconds: float


@dataclass(frozen=True)
class Roofline:
    """How fast a device reads weights and computes, with the kernels and the dtype that were measured."""

    read_bytes_per_s: float
    flops_per_s: float
    overhead_s: float
    """Of each unit in each step."""
    error: float = 0.0
    """Root mean square of log(predicted / measured) over the steps of the fit: 0.1 is about 10%."""

    def seconds(self, read_bytes: float, flops: float) -> float:
        """Seconds of a step that reads and computes so much."""
        return self.overhead_s + max(read_bytes / self.read_bytes_per_s, flops / self.flops_per_s)

    def decode_s(self, unit: UnitWork, *, num_sessions: int = 1, context_tokens: int = 512) -> float:
        """Seconds of one decode step of `num_sessions` sessions that hold `context_tokens` each."""
        return self.seconds(*decode_work(unit, num_sessions, context_tokens))

    def prefill_s_per_token(self, unit: UnitWork, *, chunk_tokens: int = 128, context_tokens: int = 0) -> float:
        """Seconds for each token of a chunk of a prompt behind `context_tokens` cached ones."""
        return self.seconds(*prefill_work(unit, chunk_tokens, context_tokens)) / chunk_tokens


def decode_work(unit: UnitWork, num_sessions: int, context_tokens: int) -> tuple[float, float]:
    """(bytes read, flops) of one decode step. `unit` must have been sized for `num_sessions` where it has experts."""
    kv_bytes = num_sessions * context_tokens * unit.kv_bytes_per_token
    attention = context_tokens * unit.attention_flops_per_cached_token
    return unit.read_bytes + kv_bytes, num_sessions * (unit.flops_per_token + attention)


def prefill_work(unit: UnitWork, num_tokens: int, context_tokens: int) -> tuple[float, float]:
    """(bytes read, flops) of a chunk of a prompt. A chunk reads each of its weights once; every expert is wanted.

    The head sees the last token alone: what it computes does not grow with the chunk.
    """
    seen = context_tokens + (num_tokens + 1) / 2
    is_block = unit.kv_bytes_per_token > 0
    read = max(unit.read_bytes, float(unit.weight_bytes)) if is_block else unit.read_bytes
    tokens = num_tokens if is_block else 1
    flops = tokens * (unit.flops_per_token + seen * unit.attention_flops_per_cached_token)
    return read + (context_tokens + num_tokens) * unit.kv_bytes_per_token, flops


def fit_roofline(steps: Sequence[TimedWork]) -> Roofline:
    """The roofline that comes closest to the measured steps, by relative error.

    Which of the two roofs a step hits is not known beforehand: guess, solve the linear least squares that remain
    (1/bandwidth, 1/flops and overhead, none below zero), look again which roof each step hits, until nothing changes;
    from several first guesses, and the best wins.

    Raises:
        ValueError: there are no steps, or one took no time.
    """
    if not steps or any(step.seconds <= 0 or step.read_bytes <= 0 or step.flops <= 0 for step in steps):
        raise ValueError("a roofline needs measured steps, each with bytes, flops and seconds above 0.")
    by_intensity = sorted(steps, key=lambda step: step.flops / step.read_bytes)
    candidates = [_settle(by_intensity, border) for border in range(len(by_intensity) + 1)]
    return min(candidates, key=lambda roofline: roofline.error)


def _settle(steps: Sequence[TimedWork], border: int) -> Roofline:
    """Alternate from the guess that the first `border` steps (by intensity) are bound by memory, the others not."""
    is_memory = [index < border for index in range(len(steps))]
    for _ in range(_MAX_ROUNDS):
        per_byte, per_flop, overhead = _solve(steps, is_memory)
        again = [step.read_bytes * per_byte >= step.flops * per_flop for step in steps]
        if again == is_memory:
            break
        is_memory = again
    # A roof that no step hit is at least as high as the step that came closest to it.
    per_byte = per_byte or min(step.seconds / step.read_bytes for step in steps)
    per_flop = per_flop or min(step.seconds / step.flops for step in steps)
    fitted = Roofline(1 / per_byte, 1 / per_flop, overhead)
    squares = [math.log(fitted.seconds(step.read_bytes, step.flops) / step.seconds) ** 2 for step in steps]
    return Roofline(fitted.read_bytes_per_s, fitted.flops_per_s, overhead, math.sqrt(sum(squares) / len(squares)))


def _solve(steps: Sequence[TimedWork], is_memory: Sequence[bool]) -> tuple[float, float, float]:
    """(s per byte, s per flop, overhead in s): least squares of relative errors, none below zero.

    With three unknowns the non-negative optimum is found by trying every set of unknowns that are not zero.
    """
    import numpy as np

    # Columns in units that make them comparable, rows divided by the measured time: the wanted right side is 1.
    rows = [
        [step.read_bytes / 1e9 * on, step.flops / 1e9 * (not on), 1.0]
        for step, on in zip(steps, is_memory, strict=True)
    ]
    matrix = np.array(rows) / np.array([[step.seconds] for step in steps])
    best, best_error = np.zeros(3), math.inf
    for chosen in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        part = matrix[:, chosen]
        if not part.any(axis=0).all():
            continue
        solution, *_ = np.linalg.lstsq(part, np.ones(len(steps)), rcond=None)
        error = float(((part @ solution - 1) ** 2).sum())
        if (solution >= 0).all() and error < best_error - 1e-12:
            best, best_error = np.zeros(3), error
            best[chosen] = solution
    return float(best[0]) / 1e9, float(best[1]) / 1e9, float(best[2])
