"""A device's measurement: a stored one where it is fresh, else a new one, which is stored."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from shardnet.errors import UsageError
from shardnet.process.compute import CPU
from shardnet.profiling.compute import device_kind, usable_compute_bytes
from shardnet.profiling.hardware import describe_hardware
from shardnet.profiling.kernel_timing import orders_of
from shardnet.profiling.kernel_trials import are_the_same
from shardnet.profiling.measurement import DeviceMeasurement
from shardnet.profiling.profiler import measure_device
from shardnet.profiling.store import ProfileStore, configuration_key, current_versions, why_stale
from shardnet.progress import Progress, silent
from shardnet.quantised.kv_names import AUTO as KV_AUTO
from shardnet.quantised.schemes import AUTO
from shardnet.stage.pace import Pace, own_pace


@dataclass(frozen=True)
class Profiled:
    """A measurement, and whether it was made now."""

    measurement: DeviceMeasurement
    made_because: str
    """Why it was measured now; empty where a stored one was used."""
    not_kept: str = ""
    """Why the next run will have to measure again, in one sentence; empty where it will not."""


def measure_or_reuse(
    config: Any,
    dtype: str,
    store: ProfileStore,
    *,
    weights: str = AUTO,
    kv_dtype: str = KV_AUTO,
    device: str | None = None,
    refresh: bool = False,
    max_seconds: float = 60.0,
    num_threads: int | None = None,
    must_keep: bool = True,
    pace: Pace = own_pace,
    compute: str = CPU,
    progress: Progress = silent,
) -> Profiled:
    """The stored measurement of this device where there is a fresh one; else measure and store.

    The memory that may be used is always that of now. Arguments and errors are those of `measure_device`; `refresh`
    measures in any case. Models with one configuration share a measurement, and where the best number of threads was
    looked for, workers with that number use it too.

    Args:
        device: its name; that of its kind where the number of threads is given, else that of the host, if None.
        must_keep: False measures where nothing can be stored, too, and says so in `Profiled.not_kept`.

    Raises:
        UsageError: the measurement cannot be stored, and must be.
    """
    if device is None:
        device = _name_of_this(num_threads, compute)
    model = configuration_key(config)
    stored = None if refresh else store.load(device, model, dtype, weights, kv_dtype)
    why: str | None = "it was asked for"
    if not refresh:
        why = _why_not(stored, num_threads, compute)
    if stored is not None and why is None:
        return Profiled(replace(stored, memory_bytes=usable_compute_bytes(compute)), "")
    not_kept = _try_to_keep(store.require_writable, must_keep)
    made = measure_device(
        config,
        model,
        dtype,
        weights=weights,
        kv_dtype=kv_dtype,
        device=device,
        max_seconds=max_seconds,
        num_threads=num_threads,
        pace=pace,
        compute=compute,
        progress=progress,
    )
    if not not_kept:
        not_kept = _try_to_keep(lambda: store.save(made), must_keep)
        if num_threads is None:
            store.save(replace(made, device=device_kind(made.num_threads, compute)))
    return Profiled(made, why or "", not_kept)


def _name_of_this(num_threads: int | None, compute: str) -> str:
    if num_threads is not None:
        return device_kind(num_threads, compute)
    host = platform.node() or "device"
    return host if compute == CPU else f"{host}-{compute}"


def _why_not(stored: DeviceMeasurement | None, num_threads: int | None, compute: str) -> str | None:
    """Why the stored measurement is of no use; None where it is."""
    if stored is None:
        return "there was none"
    if num_threads not in (None, stored.num_threads):
        return f"it was made with {stored.num_threads} threads, not {num_threads}"
    why = why_stale(stored, describe_hardware(compute=compute), current_versions(), time.time())
    if why is None and not are_the_same(orders_of(stored.kernels), getattr(torch, stored.dtype)):
        return "other kernels multiply by weights of few bits here now"
    return why


def _try_to_keep(keep: Callable[[], object], must_keep: bool) -> str:
    """What stood in the way; empty where nothing did."""
    try:
        keep()
    except UsageError as error:
        if must_keep:
            raise
        return str(error)
    return ""
