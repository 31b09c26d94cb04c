"""Measures what a device gives: seconds of every kind of unit in decode and prefill, threads that pay, memory, power.

Runs real shards (with random weights) through the code that will run them, so that kernels, dtypes and overheads are
those of a run. Several blocks run one after the other, as in decoding, so that no cache of the processor holds weights
that it would not hold then. Measures no link: see `link_probe`. Keeps nothing: see
`reuse`.
"""

from __future__ import annotations

import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from shardnet.described.model_sizes import DTYPE_BYTES, UnitWork
from shardnet.errors import BadRequest, DoesNotFit
from shardnet.models import Segment, Shard
from shardnet.profiling.cores import last_level_cache_bytes, max_threads
from shardnet.profiling.hardware import describe_hardware
from shardnet.profiling.measurement import DeviceMeasurement, StepTiming, ThreadTrial, UnitMeasurement
from shardnet.profiling.memory import usable_memory_bytes
from shardnet.profiling.power import PowerWatch, read_power
from shardnet.profiling.random_shard import UnitGroup, group_units, random_shard, works_of
from shardnet.profiling.store import current_versions
from shardnet.progress import Progress, silent
from shardnet.stage.cache import SessionCache
from shardnet.stage.pace import Pace, own_pace

DECODE_STEPS = ((1, 64), (1, 512), (1, 2048), (4, 64), (4, 512), (8, 64), (8, 512))
"""(sessions, cached tokens of each). What lies between is interpolated."""
PREFILL_STEPS = ((16, 0), (64, 0), (128, 0), (256, 0), (64, 512))
"""(new tokens, cached tokens)."""
_TRIAL_DECODE, _TRIAL_PREFILL = (1, 256), (64, 0)
_TRIALS_SHARE = 0.4
"""Of the time, for finding the number of threads."""
_ROUNDS = 3
_MAX_RUNS = 25
"""Of a step in a round."""
_LONGEST_RUN_S = 4.0
"""A longer chunk of a prompt is not measured; the line through the shorter ones goes on."""
_BUSY = """
import sys, threading, os
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print("busy", flush=True)
while True:
    pass
"""


def measure_device(
    config: Any,
    model: str,
    dtype: str,
    *,
    device: str | None = None,
    max_seconds: float = 60.0,
    num_threads: int | None = None,
    pace: Pace = own_pace,
    progress: Progress = silent,
) -> DeviceMeasurement:
    """Measure this device with a model's units.

    Args:
        config: the `transformers` configuration of the model; its weights are not needed.
        model: its name, for the record.
        dtype: float32, bfloat16 or float16; of weights, hidden states and KV caches.
        device: its name, for the record; the host's name if None.
        max_seconds: about so long. A slow device is measured with fewer repetitions, and with shorter prompts.
        num_threads: measure with so many threads and try no others.
        pace: of an emulated device.
        progress: told as time goes by.

    Raises:
        BadRequest: an unknown dtype, or a number of threads or seconds that is not above 0.
        DoesNotFit: this device cannot hold one unit of the model.
        UnsupportedModel: the family cannot be cut.
    """
    if dtype not in DTYPE_BYTES:
        raise BadRequest(f"dtype must be one of {', '.join(DTYPE_BYTES)}, but is {dtype!r}.")
    if max_seconds <= 0 or (num_threads is not None and num_threads < 1):
        raise BadRequest(f"a profile needs time and threads, but got {max_seconds} s and {num_threads} threads.")
    start_s = time.perf_counter()
    device = device or platform.node() or "device"
    clock = _Clock(f"profiling {device}", start_s, max_seconds, progress)
    memory_bytes, power_before = usable_memory_bytes(), read_power()
    bench = _Bench(dtype, memory_bytes, pace)
    groups = group_units(config, getattr(torch, dtype))
    works = works_of(config, model, dtype)
    threads_before = torch.get_num_threads()
    try:
        with PowerWatch() as power:
            main_blocks = max(groups[1:-1], key=lambda group: len(group.units))
            trials: tuple[ThreadTrial, ...] = ()
            if num_threads is None:
                trials = _try_threads(main_blocks, bench, clock)
                num_threads = choose_threads(trials)
            torch.set_num_threads(num_threads)
            # The blocks last: they take what the others leave of the time.
            order = sorted(groups, key=lambda group: len(group.units))
            measured = {
                group.units: _measure_group(group, works, bench, clock, len(groups) - index)
                for index, group in enumerate(order)
            }
            units = tuple(measured[group.units] for group in groups)
    finally:
        torch.set_num_threads(threads_before)
    clock.end()
    return DeviceMeasurement(
        device=device,
        model=model,
        dtype=dtype,
        hardware=describe_hardware(),
        versions=current_versions(),
        measured_at_s=time.time(),
        took_s=time.perf_counter() - start_s,
        memory_bytes=memory_bytes,
        num_threads=num_threads,
        trials=trials,
        units=units,
        power_before=power_before,
        power_after=read_power(),
        active_w=power.active_w,
    )


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


@dataclass(frozen=True)
class _Clock:
    """Shares the time out and tells how much of it is gone."""

    what: str
    start_s: float
    max_seconds: float
    progress: Progress

    def left_s(self, until_share: float = 1.0) -> float:
        return max(0.0, self.max_seconds * until_share - (time.perf_counter() - self.start_s))

    def tell(self) -> None:
        # Never full before the end: `end` does that.
        self.progress(self.what, min(self.max_seconds - self.left_s(), 0.99 * self.max_seconds), self.max_seconds)

    def end(self) -> None:
        self.progress(self.what, self.max_seconds, self.max_seconds)


@dataclass(frozen=True)
class _Bench:
    """Where runs of units are timed: in which dtype, within which memory, at which pace."""

    dtype: str
    memory_bytes: int
    pace: Pace

    def run_of(self, group: UnitGroup) -> Shard:
        """So many units in a row that twice the processor's cache is read, as far as the model and the memory go."""
        if group.weight_bytes > self.memory_bytes:
            raise DoesNotFit(
                f"One unit of this model takes {group.weight_bytes / 2**30:.2f} GiB in {self.dtype}, but this device "
                f"offers {self.memory_bytes / 2**30:.2f} GiB. Free some memory, or use a smaller dtype."
            )
        enough = math.ceil(2 * last_level_cache_bytes() / group.weight_bytes)
        num_units = max(1, min(group.longest_run, enough, self.memory_bytes // 2 // group.weight_bytes))
        first = group.run_starts_at
        return random_shard(group.config, first, first + num_units - 1, getattr(torch, self.dtype))


def _try_threads(group: UnitGroup, bench: _Bench, clock: _Clock) -> tuple[ThreadTrial, ...]:
    counts = thread_counts(max_threads())
    torch.set_num_threads(counts[-1])
    shard = bench.run_of(group)
    kv = _Sessions(shard, bench.pace)
    alone: dict[int, tuple[float, float]] = {}
    slot_s = min(0.6, clock.left_s(_TRIALS_SHARE) / (3 * len(counts)))
    for count in counts:
        torch.set_num_threads(count)
        decode_s = _undisturbed(_timed(kv.step(1, *_TRIAL_DECODE), slot_s))
        prefill_s = _undisturbed(_timed(kv.step(_TRIAL_PREFILL[0], 1, _TRIAL_PREFILL[1]), slot_s))
        alone[count] = decode_s, prefill_s
        clock.tell()
    trials = []
    with _busy_core():
        for count, (decode_s, prefill_s) in alone.items():
            torch.set_num_threads(count)
            loaded_s = median(_timed(kv.step(1, *_TRIAL_DECODE), slot_s))
            trials.append(
                ThreadTrial(count, *(seconds / shard.num_units for seconds in (decode_s, loaded_s, prefill_s)))
            )
            clock.tell()
    return tuple(trials)


def _measure_group(
    group: UnitGroup, works: Sequence[UnitWork], bench: _Bench, clock: _Clock, groups_left: int
) -> UnitMeasurement:
    """All steps of one kind of unit. Takes its part of the time that is left."""
    shard = bench.run_of(group)
    kv = _Sessions(shard, bench.pace)
    context_limit = int(getattr(group.config, "max_position_embeddings", 0) or 2048)
    wanted = [(count, 1, cached) for count, cached in DECODE_STEPS] + [
        (1, new, cached) for new, cached in PREFILL_STEPS
    ]
    wanted = [step for step in wanted if step[1] + step[2] <= context_limit and kv.fits(*step, bench.memory_bytes // 8)]
    if not shard.kv_bytes_per_token:  # what is cached makes no difference
        wanted = list({step[:2]: step for step in reversed(wanted)}.values())[::-1]
    group_s = clock.left_s() / groups_left
    until_s = clock.left_s() - group_s
    # Other programs come in bursts that are longer than a step's share of the time: the runs of each step are spread.
    times: dict[tuple[int, int, int], list[float]] = {}
    for round_ in range(_ROUNDS):
        for index, step in enumerate(wanted):
            num_left = len(wanted) * (_ROUNDS - round_) - index
            left_s = max(0.0, clock.left_s() - until_s)
            slot_s = min(0.8 / _ROUNDS, left_s / num_left)
            if step not in times and (round_ or _takes_too_long(step, times, slot_s * _ROUNDS)):
                continue
            if round_ and not left_s:
                break
            num_sessions, num_tokens, cached = step
            more = _timed(kv.step(num_tokens, num_sessions, cached), slot_s, is_warm=bool(round_))
            times[step] = sorted([*times.get(step, []), *more])
            clock.tell()
    steps = [
        StepTiming(sessions, new, cached, _undisturbed(runs) / shard.num_units, len(runs))
        for (sessions, new, cached), runs in times.items()
    ]
    return UnitMeasurement(works[group.units[0]], group.units, tuple(steps))


def _takes_too_long(
    step: tuple[int, int, int], times: Mapping[tuple[int, int, int], Sequence[float]], share_s: float
) -> bool:
    """Whether a chunk of a prompt is expected to take far more than its share of the time, by a shorter chunk's."""
    shorter = [(tokens, runs) for (_, tokens, _), runs in times.items() if 1 < tokens < step[1]]
    if not shorter:
        return False
    num_tokens, runs = shorter[-1]
    expected_s = _undisturbed(runs) * step[1] / num_tokens
    return expected_s > max(_LONGEST_RUN_S, share_s) or expected_s > max(share_s, 0.1) * 4


class _Sessions:
    """KV caches of as many sessions as a step wants, and the steps through a shard; they leave lengths as they were."""

    def __init__(self, shard: Shard, pace: Pace) -> None:
        self._shard = shard
        self._pace = pace
        self._caches: list[SessionCache] = []

    def fits(self, num_sessions: int, num_tokens: int, cached: int, limit_bytes: int) -> bool:
        return num_sessions * (num_tokens + cached) * self._shard.kv_bytes_per_token <= max(limit_bytes, 2**26)

    def step(self, num_tokens: int, num_sessions: int, cached: int) -> Callable[[], object]:
        """A function that runs `num_tokens` new tokens of each of `num_sessions` sessions that hold `cached`."""
        shard = self._shard
        self._caches = [_filled_cache(shard, cached + num_tokens, cached) for _ in range(num_sessions)]
        segments = [Segment(cache, num_tokens) for cache in self._caches]
        num_rows = num_sessions * num_tokens
        generator = torch.Generator().manual_seed(0)
        if shard.has_embedding:
            rows = torch.randint(shard.config.vocab_size, (num_rows,), generator=generator)
        else:
            rows = torch.randn(num_rows, shard.config.hidden_size, generator=generator).to(shard.dtype)
        return lambda: self._pace(lambda: shard.forward(rows, segments))


def _filled_cache(shard: Shard, capacity: int, length: int) -> SessionCache:
    """A session's cache with numbers in it: untouched memory would be all the same page, and fast."""
    cache = SessionCache(shard.kv_layout, shard.dtype, capacity)
    for tensors in (cache.keys, cache.values):
        for tensor in tensors.values():
            tensor.copy_(torch.linspace(-1, 1, tensor.shape[-1]).to(tensor.dtype))
    cache.length = length
    return cache


def _timed(step: Callable[[], object], slot_s: float, is_warm: bool = False) -> list[float]:
    """Seconds of some runs, the fastest first.

    Unless `is_warm`, the first run warms up and counts only if there is no time for more.
    """
    start = time.perf_counter()
    step()
    now = time.perf_counter()
    first_s = now - start
    times = [first_s] if is_warm else []
    while len(times) < _MAX_RUNS and (now - start + first_s < slot_s or (times and len(times) < 3 and first_s < 0.05)):
        before = now
        step()
        now = time.perf_counter()
        times.append(now - before)
    return sorted(times) or [first_s]


def _undisturbed(times: Sequence[float]) -> float:
    """The lower quartile, interpolated: a slow device has few runs, whose fastest one would flatter it.

    What other programs do can only add, and comes in bursts longer than half of a slot.
    """
    place = (len(times) - 1) / 4
    left = int(place)
    right = min(left + 1, len(times) - 1)
    return times[left] + (place - left) * (times[right] - times[left])


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
