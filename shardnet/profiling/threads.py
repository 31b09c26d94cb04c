"""Which number of threads pays: tried alone and beside another program. One rule, for profiles and for `doctor`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import torch

from shardnet.models import Shard
from shardnet.profiling.cores import max_threads
from shardnet.profiling.measurement import ThreadTrial
from shardnet.profiling.timing import Clock, ShardSteps, timed, undisturbed
from shardnet.stage.pace import Pace

DECODE_TOKENS = 256
"""Cached, of the one session whose decoding is timed."""
PREFILL_TOKENS = 64
_LONGEST_S = 0.6
"""Of one number of threads in one of its three trials."""
_BUSY = """
import sys, threading, os
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print("busy", flush=True)
while True:
    pass
"""


def choose_threads(trials: Sequence[ThreadTrial]) -> int:
    """The number of threads with the least geometric mean of decode, decode under load, and prefill. Pure.

    Under load counts as much as alone: a device in somebody's hand is never idle, and OpenMP's barriers can make two
    threads ten times slower than one as soon as another program takes a core. Within 3% fewer threads win.
    """

    def mean_s(trial: ThreadTrial) -> float:
        return (trial.decode_s * trial.decode_under_load_s * trial.prefill_s) ** (1 / 3)

    best_s = min(mean_s(trial) for trial in trials)
    return min(trial.num_threads for trial in trials if mean_s(trial) <= 1.03 * best_s)


def thread_counts(most: int) -> list[int]:
    """The numbers of threads to try: all up to 4, then ever wider steps."""
    counts = [*range(1, min(most, 4) + 1)]
    while counts[-1] < most:
        counts.append(min(most, counts[-1] + max(2, counts[-1] // 2)))
    return counts


def try_threads(shard: Shard, pace: Pace, clock: Clock, share: float = 1.0) -> tuple[ThreadTrial, ...]:
    """Run some blocks with each of `thread_counts`. Leaves torch with one of these numbers.

    Args:
        share: of the clock's time until which it may go on.
    """
    counts = thread_counts(max_threads())
    steps = ShardSteps(shard, pace)
    decode, prefill = steps.step(1, 1, DECODE_TOKENS), steps.step(PREFILL_TOKENS, 1, 0)
    alone: dict[int, tuple[float, float]] = {}
    slot_s = min(_LONGEST_S, clock.left_s(share) / (3 * len(counts)))
    for count in counts:
        torch.set_num_threads(count)
        alone[count] = undisturbed(timed(decode, slot_s)), undisturbed(timed(prefill, slot_s))
        clock.tell()
    trials = []
    with _busy_core():
        for count, (decode_s, prefill_s) in alone.items():
            torch.set_num_threads(count)
            loaded_s = median(timed(decode, slot_s))
            each_s = (seconds / shard.num_units for seconds in (decode_s, loaded_s, prefill_s))
            trials.append(ThreadTrial(count, *each_s))
            clock.tell()
    return tuple(trials)


@contextmanager
def _busy_core() -> Iterator[None]:
    """Another program that keeps one core busy. It ends with the block, and with this process."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        try:
            assert program.stdout is not None
            program.stdout.readline()
            yield
        finally:
            program.kill()
