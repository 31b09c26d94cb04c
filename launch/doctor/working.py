"""Tries what a device does: torch's RPC between two processes, and computing with several threads."""

from __future__ import annotations

import time
from contextlib import ExitStack

from shardnet.errors import ShardnetError
from shardnet.launch.doctor.finding import Finding
from shardnet.launch.doctor.thread_bench import measure_threads
from shardnet.process.imports import importing
from shardnet.profiling.kernel_timing import lines_of, rows_of
from shardnet.profiling.memory import machine_memory
from shardnet.progress import Progress

CALL_S = 10.0
DEVICE = "device"
KERNELS_S = 6.0
TRIED = ((3072, 1024), (1024, 2816))
"""Outputs and inputs of two matrices as blocks have them."""
_OTHER_TORCH = (
    "torch must be a build with distributed RPC (TensorPipe): the wheels for Linux are, and Termux's package is since "
    "the end of 2025: pkg upgrade python-torch. Where it is not, set up Debian under proot: sh setup.sh --debian."
)

_ANEW = (
    "Each process that computes compiles these products anew, for some seconds, as they cannot be kept: {}. Set "
    "SHARDNET_CACHE to a folder that this user alone can write, and programs be run from."
)


def find_rpc(progress: Progress) -> Finding:
    """Whether a device can work here: starts one, as a process that joins over torch's RPC, and calls it."""
    try:
        with importing():
            import torch.distributed

        if not torch.distributed.is_available() or not torch.distributed.rpc.is_available():
            return Finding("rpc", False, "this torch was built without it", None, (_OTHER_TORCH,))
        join_s, call_s = _tried(progress)
    except (ShardnetError, ImportError, AttributeError, OSError) as error:
        return Finding("rpc", False, f"does not work: {error}", None, (_OTHER_TORCH,))
    text = f"a device joined within {join_s:.1f} s; a call to it took {call_s * 1e3:.1f} ms"
    return Finding("rpc", True, text, {"join_s": join_s, "call_s": call_s})


def _tried(progress: Progress) -> tuple[float, float]:
    """The seconds of a start, and of a call. Without transformers, which a light device has not."""
    with importing():
        from shardnet.cluster.arrivals import JOIN_S, join_as_coordinator, wait_for
        from shardnet.cluster.local_workers import LocalWorkers
        from shardnet.transport import serve_door

    start_s = time.perf_counter()
    with ExitStack() as resources:
        door = resources.enter_context(serve_door())
        workers = resources.enter_context(LocalWorkers(door.endpoint, [DEVICE], 1))
        here = resources.enter_context(join_as_coordinator(door.endpoint, JOIN_S))
        wait_for(here, [DEVICE], progress, workers)
        join_s = time.perf_counter() - start_s
        here.call(DEVICE, "describe", timeout_s=CALL_S).result()
        start_s = time.perf_counter()
        here.call(DEVICE, "describe", timeout_s=CALL_S).result()
        return join_s, time.perf_counter() - start_s


def find_kernels(progress: Progress) -> Finding:
    """What multiplies with weights of few bits here: timed as profiles are, with matrices that belong to no model."""
    progress("timing the products of few bits", 0.0, KERNELS_S)
    with importing():
        import torch

        from shardnet.profiling.kernel_trials import time_kernels
        from shardnet.profiling.timing import Clock
        from shardnet.quantised.kernels.kernel import Shape
        from shardnet.quantised.kernels.native import native
        from shardnet.quantised.native.compiling import WhyNot
        from shardnet.quantised.schemes import BYTES, BYTES_BY_BYTES, NIBBLES

    matrices = [Shape(form, *size) for form in (NIBBLES, BYTES, BYTES_BY_BYTES) for size in TRIED]
    clock = Clock("timing the products of few bits", time.perf_counter(), KERNELS_S, progress)
    timings = time_kernels(matrices, torch.bfloat16, machine_memory().available_bytes // 8, clock, 1.0)
    clock.end()
    own = native()
    hints: tuple[str, ...] = ()
    about = own.reason if isinstance(own, WhyNot) else f"Compiled for {own.way}."
    if not isinstance(own, WhyNot) and own.why_not_kept:
        hints = (_ANEW.format(own.why_not_kept),)
    rows = rows_of(timings)
    chosen = dict.fromkeys(row["kernel"] for row in rows if row["chosen"])
    data = {"native": about, "timings": rows}
    text = f"{', '.join(chosen) or 'plain'}. {about}"
    return Finding("few_bits", True, text, data, hints, tuple(lines_of(timings)))


def find_threads(progress: Progress) -> Finding:
    """How many threads pay here: timed, never assumed."""
    best, speeds = measure_threads(progress)
    lines = [
        f"with {each.threads}: {each.decode_bytes_per_s / 1e9:.1f} GB/s, {each.prefill_flops / 1e9:.0f} GFLOP/s"
        for each in speeds
    ]
    data = {"best": best, "tried": [vars(each) for each in speeds]}
    return Finding("threads", True, f"{best} for decoding (" + "; ".join(lines) + ")", data)
