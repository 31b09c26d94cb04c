"""Measures what a device gives: seconds of every kind of unit in decode and prefill, threads that pay, memory, power.

Runs real shards (with random weights) through the code that will run them, so that kernels, dtypes and overheads are
those of a run. Several blocks run one after the other, as in decoding, so that no cache of the processor holds weights
that it would not hold then. Measures no link: see `link_probe`. Keeps nothing: see
`reuse`.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from shardnet.described.model_sizes import UnitWork
from shardnet.errors import BadRequest, DoesNotFit
from shardnet.models import Shard
from shardnet.plan import DTYPES, KernelOrder
from shardnet.process.compute import CPU
from shardnet.profiling.compute import compute_cache_bytes, compute_device, usable_compute_bytes
from shardnet.profiling.cores import max_threads
from shardnet.profiling.hardware import describe_hardware
from shardnet.profiling.kernel_timing import KernelTiming, orders_of
from shardnet.profiling.kernel_trials import matrices_of, time_kernels
from shardnet.profiling.measurement import DeviceMeasurement, StepTiming, ThreadTrial, UnitMeasurement
from shardnet.profiling.power import PowerWatch, read_power
from shardnet.profiling.random_shard import UnitGroup, group_units, random_shard, works_of
from shardnet.profiling.store import current_versions
from shardnet.profiling.threads import choose_threads, try_threads
from shardnet.profiling.timing import Clock, ShardSteps, timed, undisturbed
from shardnet.progress import Progress, silent
from shardnet.quantised.kv_names import AUTO as KV_AUTO
from shardnet.quantised.schemes import AUTO
from shardnet.stage.pace import Pace, own_pace

DECODE_STEPS = ((1, 64), (1, 512), (1, 2048), (4, 64), (4, 512), (8, 64), (8, 512))
"""(sessions, cached tokens of each). What lies between is interpolated."""
PREFILL_STEPS = ((16, 0), (64, 0), (128, 0), (256, 0), (64, 512))
"""(new tokens, cached tokens)."""
_TRIALS_SHARE = 0.4
"""Of the time, for finding the number of threads."""
_KERNELS_SHARE = 0.25
"""Of the time that is left then, for products of few bits."""
_ROUNDS = 3
_LONGEST_RUN_S = 4.0
"""A longer chunk of a prompt is not measured; the line through the shorter ones goes on."""
_StepShape = tuple[int, int, int]
"""(sessions, new tokens of each, cached tokens of each)."""


def measure_device(
    config: Any,
    model: str,
    dtype: str,
    *,
    weights: str = AUTO,
    kv_dtype: str = KV_AUTO,
    device: str | None = None,
    max_seconds: float = 60.0,
    num_threads: int | None = None,
    pace: Pace = own_pace,
    compute: str = CPU,
    progress: Progress = silent,
) -> DeviceMeasurement:
    """Measure this device with a model's units.

    Args:
        config: of the model, a `transformers` one or a `PlainConfig`; its weights are not needed.
        model: its name, for the record.
        dtype: float32, bfloat16 or float16; of hidden states, and of what is not held in fewer bits.
        weights, kv_dtype: how weights, keys and values are held: of `schemes.SCHEMES` and `kv_names.KV_DTYPES`.
        device: its name, for the record; the host's name if None.
        max_seconds: about so long. A slow device is measured with fewer repetitions, and with shorter prompts.
        num_threads: measure with so many threads and try no others.
        pace: of an emulated device.
        compute: where it computes, see `profiling.compute`. Of an accelerator the power is not known.
        progress: told as time goes by.

    Raises:
        BadRequest: an unknown dtype, or a number of threads or seconds that is not above 0.
        DoesNotFit: this device cannot hold one unit of the model.
        UnsupportedModel, UsageError: the family cannot be cut; there is no such accelerator here.
    """
    _check(dtype, max_seconds, num_threads)
    device = device or platform.node() or "device"
    clock = Clock(f"profiling {device}", time.perf_counter(), max_seconds, progress)
    memory_bytes, power_before = usable_compute_bytes(compute), read_power()
    bench = _Bench(dtype, weights, kv_dtype, memory_bytes, pace, compute)
    with PowerWatch() as power:
        trials, num_threads, kernels, units = _measure(config, model, bench, clock, num_threads)
    clock.end()
    return DeviceMeasurement(
        device=device,
        model=model,
        dtype=dtype,
        hardware=describe_hardware(compute=compute),
        versions=current_versions(),
        measured_at_s=time.time(),
        took_s=time.perf_counter() - clock.start_s,
        memory_bytes=memory_bytes,
        num_threads=num_threads,
        trials=trials,
        units=units,
        power_before=power_before,
        power_after=read_power(),
        active_w=power.active_w if compute == CPU else None,
        weights=weights,
        kv_dtype=kv_dtype,
        kernels=kernels,
    )


def _measure(
    config: Any, model: str, bench: _Bench, clock: Clock, num_threads: int | None
) -> tuple[tuple[ThreadTrial, ...], int, tuple[KernelTiming, ...], tuple[UnitMeasurement, ...]]:
    groups = group_units(config, getattr(torch, bench.dtype), bench.weights)
    works = works_of(config, model, bench.dtype, bench.weights, bench.kv_dtype)
    with _threads_restored():
        trials = () if num_threads is not None else _try_threads(groups, bench, clock)
        num_threads = num_threads or (choose_threads(trials) if trials else 1)
        torch.set_num_threads(num_threads)
        kernels = _time_kernels(groups, bench, clock)
        bench = replace(bench, kernels=orders_of(kernels))
        return trials, num_threads, kernels, _measure_groups(groups, works, bench, clock)


@contextmanager
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(dtype: str, max_seconds: float, num_threads: int | None) -> None:
    if dtype not in DTYPES:
        raise BadRequest(f"dtype must be one of {', '.join(DTYPES)}, but is {dtype!r}.")
    if max_seconds <= 0 or (num_threads is not None and num_threads < 1):
        raise BadRequest(f"a profile needs time and threads, but got {max_seconds} s and {num_threads} threads.")


@dataclass(frozen=True)
class _Bench:
    """Where runs of units are timed: in which dtype, within which memory, at which pace."""

    dtype: str
    weights: str
    kv_dtype: str
    memory_bytes: int
    pace: Pace
    compute: str
    kernels: tuple[KernelOrder, ...] = ()

    def run_of(self, group: UnitGroup) -> Shard:
        """So many units in a row that twice the processor's cache is read, as far as the model and the memory go."""
        if group.weight_bytes > self.memory_bytes:
            raise DoesNotFit(
                f"One unit of this model takes {group.weight_bytes / 2**30:.2f} GiB in {self.dtype}, but this device "
                f"offers {self.memory_bytes / 2**30:.2f} GiB. Free some memory, or use a smaller dtype."
            )
        enough = math.ceil(2 * compute_cache_bytes(self.compute) / group.weight_bytes)
        num_units = max(1, min(group.longest_run, enough, self.memory_bytes // 2 // group.weight_bytes))
        first = group.run_starts_at
        dtype, device = getattr(torch, self.dtype), compute_device(self.compute)
        held = self.weights, self.kernels, self.kv_dtype
        return random_shard(group.config, first, first + num_units - 1, dtype, device, *held)


def _try_threads(groups: Sequence[UnitGroup], bench: _Bench, clock: Clock) -> tuple[ThreadTrial, ...]:
    """With the blocks of which there are most. None are tried where an accelerator does the work."""
    if bench.compute != CPU:
        return ()
    torch.set_num_threads(max_threads())
    main_blocks = max(groups[1:-1], key=lambda group: len(group.units))
    return try_threads(bench.run_of(main_blocks), bench.pace, clock, _TRIALS_SHARE)


def _time_kernels(groups: Sequence[UnitGroup], bench: _Bench, clock: Clock) -> tuple[KernelTiming, ...]:
    """Those of few bits on the processor; an accelerator has one only."""
    if bench.compute != CPU:
        return ()
    dtype = getattr(torch, bench.dtype)
    matrices = matrices_of(groups, dtype, bench.weights, compute_device(bench.compute))
    share = 1 - clock.left_s() / clock.max_seconds * (1 - _KERNELS_SHARE)
    return time_kernels(matrices, dtype, bench.memory_bytes // 8, clock, share)


def _measure_groups(
    groups: Sequence[UnitGroup], works: Sequence[UnitWork], bench: _Bench, clock: Clock
) -> tuple[UnitMeasurement, ...]:
    """The blocks last: they take what the others leave of the time."""
    order = sorted(groups, key=lambda group: len(group.units))
    measured = {
        group.units: _measure_group(group, works, bench, clock, len(groups) - index)
        for index, group in enumerate(order)
    }
    return tuple(measured[group.units] for group in groups)


def _measure_group(
    group: UnitGroup, works: Sequence[UnitWork], bench: _Bench, clock: Clock, groups_left: int
) -> UnitMeasurement:
    """All steps of one kind of unit. Takes its part of the time that is left."""
    shard = bench.run_of(group)
    runs = ShardSteps(shard, bench.pace)
    wanted = _wanted_steps(group, runs, bench.memory_bytes // 8)
    if not shard.kv_bytes_per_token:  # what is cached makes no difference
        wanted = list({step[:2]: step for step in reversed(wanted)}.values())[::-1]
    times = _time_in_rounds(runs, wanted, clock, clock.left_s() / groups_left)
    steps = [
        StepTiming(sessions, new, cached, undisturbed(taken_s) / shard.num_units, len(taken_s))
        for (sessions, new, cached), taken_s in times.items()
    ]
    return UnitMeasurement(works[group.units[0]], group.units, tuple(steps))


def _wanted_steps(group: UnitGroup, runs: ShardSteps, limit_bytes: int) -> list[_StepShape]:
    """What the model's context and the memory allow."""
    context_limit = int(getattr(group.config, "max_position_embeddings", 0) or 2048)
    decode = [(count, 1, cached) for count, cached in DECODE_STEPS]
    prefill = [(1, new, cached) for new, cached in PREFILL_STEPS]
    short = [step for step in decode + prefill if step[1] + step[2] <= context_limit]
    return [step for step in short if runs.fits(*step, limit_bytes)]


def _time_in_rounds(
    runs: ShardSteps, wanted: Sequence[_StepShape], clock: Clock, group_s: float
) -> dict[_StepShape, list[float]]:
    """Seconds of the runs of each step, the fastest first.

    Other programs come in bursts that are longer than a step's share of the time: the runs of each step are spread.
    """
    until_s = clock.left_s() - group_s
    times: dict[_StepShape, list[float]] = {}
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
            more = timed(runs.step(num_tokens, num_sessions, cached), slot_s, is_warm=bool(round_))
            times[step] = sorted([*times.get(step, []), *more])
            clock.tell()
    return times


def _takes_too_long(step: _StepShape, times: Mapping[_StepShape, Sequence[float]], share_s: float) -> bool:
    """Whether a chunk of a prompt is expected to take far more than its share of the time, by a shorter chunk's."""
    shorter = [(tokens, runs) for (_, tokens, _), runs in times.items() if 1 < tokens < step[1]]
    if not shorter:
        return False
    num_tokens, runs = shorter[-1]
    expected_s = undisturbed(runs) * step[1] / num_tokens
    return expected_s > max(_LONGEST_RUN_S, share_s) or expected_s > max(share_s, 0.1) * 4
