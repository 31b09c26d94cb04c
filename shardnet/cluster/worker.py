"""What one device does when it is asked: describe itself, load shards, run them as stages, leave.

Handlers return at once: a load runs on a thread of its own and answers through a future, hops go into an inbox. Shards
and their stages live in this object's tables; what the coordinator holds are remote objects (RRefs) to their hosts.
"""

from __future__ import annotations

import os
import platform
import threading
import uuid
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import LlamaConfig

from shardnet.cache import KVCache
from shardnet.errors import BadRequest, ClusterError
from shardnet.loader import load_shard, read_config
from shardnet.models import build_skeleton
from shardnet.profiling.hardware import device_kind, group_free_bytes
from shardnet.profiling.link_probe import expose_probe
from shardnet.profiling.profiler import measure_or_reuse
from shardnet.profiling.store import ProfileStore
from shardnet.stage import Stage
from shardnet.timeline.timeline import Recorder, clock_ns
from shardnet.transport.base import Transport
from shardnet.transport.messages import Hop, Part, SampledToken, SessionSpec, StageSpec, Tokens

StageKey = tuple[int, int]
"""(plan version, index of the stage in the ring)."""


class Worker:
    """One device of a cluster. A context manager: its stages end with the block."""

    transport: Transport

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self.weights: weakref.WeakValueDictionary[Any, torch.Tensor] = weakref.WeakValueDictionary()
        """Tensors that stages of this device share (tied embeddings, say), each loaded once, as long as one uses it."""
        self.left = threading.Event()
        """Set when the coordinator has told this device to leave."""
        self._stages: dict[StageKey, StageHost] = {}

    def warm_up(self) -> None:
        """Let torch set up its kernels and its meta device, so that a device that has joined is ready."""
        config = LlamaConfig(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
        build_skeleton(config, 0, 2)
        torch.set_num_threads(self.num_threads)
        with torch.inference_mode():
            for dtype in (torch.float32, torch.bfloat16):
                rows = torch.zeros(1, 1, 128, 1024, dtype=dtype)
                torch.nn.functional.linear(rows, torch.zeros(1024, 1024, dtype=dtype))
                torch.nn.functional.scaled_dot_product_attention(rows, rows, rows)

    def attach(self, transport: Transport) -> None:
        """Expose what a device offers. To be done before the others learn of it: they ask at once."""
        self.transport = transport
        for endpoint, handler in (
            ("describe", self.describe),
            ("profile", self.profile),
            ("ping", clock_ns),
            ("open_stage", self.open_stage),
            ("hop", self.hop),
            ("bulk_hop", self.bulk_hop),
            ("open_session", self.open_session),
            ("close_sessions", self.close_sessions),
            ("leave", self.left.set),
        ):
            transport.expose(endpoint, handler)
        expose_probe(transport)

    @property
    def kind(self) -> str:
        """Devices of one kind on one host are equally fast."""
        return device_kind(self.num_threads)

    def describe(self) -> dict[str, Any]:
        """What this device is and has now. Bytes throughout.

        Devices of one `host` share its memory, those of one `network` the way to others, those of one `kind` are
        equally fast.
        """
        memory, group_free = psutil.virtual_memory(), group_free_bytes()
        available = memory.available if group_free is None else min(memory.available, group_free)
        host = f"{platform.node()}-{_boot_id()}"
        return {
            "device": self.transport.name,
            "pid": os.getpid(),
            "host": host,
            "network": f"{host}-{_network_namespace()}",
            "kind": self.kind,
            "machine": platform.machine(),
            "num_threads": self.num_threads,
            "memory_total_bytes": memory.total,
            "memory_available_bytes": available,
            "rss_bytes": psutil.Process().memory_info().rss,
            "peak_rss_bytes": peak_rss_bytes(),
            "num_os_threads": psutil.Process().num_threads(),
        }

    def profile(self, folder: str, dtype: str, store: str, max_seconds: float, source: str) -> Future[dict[str, Any]]:
        """Measure this device with a model's units, or take what was measured before; see `profiler`."""

        def tell(_: str, done: float, total: float) -> None:
            self.transport.post(source, "profile_progress", self.transport.name, done, total)

        def measure() -> dict[str, Any]:
            profiled = measure_or_reuse(
                read_config(Path(folder)),
                dtype,
                ProfileStore(store),
                device=self.kind,
                max_seconds=max_seconds,
                num_threads=self.num_threads,
                progress=tell,
            )
            return profiled.measurement.as_dict()

        return _on_thread("shardnet-profile", measure)

    def open_stage(self, spec: StageSpec) -> StageHost:
        """Make room for a stage; its weights come with `StageHost.load`."""
        host = StageHost(self, spec)
        self._stages[spec.plan_version, spec.stage] = host
        return host

    def forget(self, key: StageKey) -> None:
        self._stages.pop(key, None)

    def hop(self, hop: Hop) -> None:
        received_ns = clock_ns()
        self._stage(hop.plan_version, hop.stage).put(hop, received_ns)

    def bulk_hop(self, hop: Hop) -> Future[None]:
        received_ns = clock_ns()
        taken: Future[None] = Future()
        self._stage(hop.plan_version, hop.stage).put(hop, received_ns, lambda: taken.set_result(None))
        return taken

    def open_session(self, plan_version: int, stage: int, spec: SessionSpec) -> None:
        self._stage(plan_version, stage).open_session(spec)

    def close_sessions(self, plan_version: int, stage: int, sessions: Sequence[int]) -> None:
        host = self._stages.get((plan_version, stage))
        if host is not None and host.stage is not None:
            host.stage.close_sessions(sessions)

    def close(self) -> None:
        for host in list(self._stages.values()):
            host.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stage(self, plan_version: int, stage: int) -> Stage:
        host = self._stages.get((plan_version, stage))
        if host is None or host.stage is None:
            raise ClusterError(
                f"{self.transport.name} has no stage {stage} of plan {plan_version}: that plan is not in force here."
            )
        return host.stage


class StageHost:
    """A stage's place on a device. The coordinator holds it by a remote object and calls its public methods."""

    def __init__(self, worker: Worker, spec: StageSpec) -> None:
        self._worker = worker
        self._spec = spec
        self.stage: Stage | None = None
        self._is_closed = False
        self._lock = threading.Lock()

    def load(self) -> Future[dict[str, Any]]:
        """Load the shard and start the stage; the future gives its sizes."""
        return _on_thread("shardnet-load", self._load)

    def report(self) -> dict[str, Any]:
        """Totals since the last `reset`, and memory. Seconds and bytes."""
        stage = self._running()
        return {
            "totals": stage.recorder.totals().as_dict(),
            "peak_rss_bytes": peak_rss_bytes(),
            "kv_reserved_bytes": stage.kv.reserved_bytes,
            "num_sessions": stage.num_sessions,
        }

    def reset(self) -> None:
        """Forget totals and spans."""
        self._running().recorder.reset()

    def drain_spans(self) -> list[tuple[Any, ...]]:
        return list(self._running().recorder.drain())

    def close(self) -> None:
        """End the stage and free its weights; a load that is under way ends at its next unit."""
        self._worker.forget((self._spec.plan_version, self._spec.stage))
        with self._lock:
            self._is_closed = True
            stage, self.stage = self.stage, None
        if stage is not None:
            stage.close()

    def _running(self) -> Stage:
        assert self.stage is not None, "a stage is asked only after it was loaded"
        return self.stage

    def _load(self) -> dict[str, Any]:
        spec, worker = self._spec, self._worker
        stop = spec.ring[spec.stage]
        shard = load_shard(
            spec.model,
            spec.tensors,
            stop.first_unit,
            stop.last_unit,
            spec.dtype,
            weights=worker.weights,
            progress=self._tell_progress,
        )
        recorder = Recorder(worker.transport.name, spec.stage)
        recorder.keep_spans = spec.record_spans
        with self._lock:
            self._raise_if_closed()
            self.stage = Stage(
                shard,
                KVCache(shard.kv_layout, shard.dtype, spec.kv_budget_bytes),
                recorder,
                RingOutlet(worker.transport, spec),
                chunk_tokens=spec.prefill_chunk_tokens,
                num_threads=worker.num_threads,
            )
        return {
            "weight_bytes": shard.weight_bytes,
            "bytes_read": shard.bytes_read,
            "kv_bytes_per_token": shard.kv_bytes_per_token,
        }

    def _raise_if_closed(self) -> None:
        if self._is_closed:
            raise ClusterError("The stage was closed while it was loading.")

    def _tell_progress(self, done_bytes: int, total_bytes: int) -> None:
        self._raise_if_closed()
        spec = self._spec
        self._worker.transport.post(
            spec.source, "load_progress", spec.plan_version, spec.stage, done_bytes, total_bytes
        )


class RingOutlet:
    """Sends a stage's results straight to the next stage, and what was sampled to the source."""

    def __init__(self, transport: Transport, spec: StageSpec) -> None:
        self._transport = transport
        self._spec = spec
        self._next_stage = (spec.stage + 1) % len(spec.ring)
        self._next_device = spec.ring[self._next_stage].device

    def hop(self, parts: tuple[Part, ...], rows: torch.Tensor) -> None:
        sent = self._transport.post(self._next_device, "hop", self._to_next(parts, rows))
        sent.add_done_callback(self._check)

    def bulk_hop(self, parts: tuple[Part, ...], rows: torch.Tensor, on_taken: Callable[[], None]) -> None:
        sent = self._transport.call(self._next_device, "bulk_hop", self._to_next(parts, rows), timeout_s=BULK_HOP_S)

        def done(future: Future[Any]) -> None:
            self._check(future)
            on_taken()

        sent.add_done_callback(done)

    def tokens(self, tokens: tuple[SampledToken, ...]) -> None:
        self._transport.post(self._spec.source, "tokens", Tokens(self._spec.plan_version, tokens))

    def session_failed(self, session: int, error: BadRequest) -> None:
        self._transport.post(self._spec.source, "session_failed", self._spec.plan_version, session, str(error))

    def failed(self, error: BaseException) -> None:
        spec = self._spec
        text = f"{type(error).__name__}: {error}"
        self._transport.post(spec.source, "stage_failed", spec.plan_version, spec.stage, self._transport.name, text)

    def _to_next(self, parts: tuple[Part, ...], rows: torch.Tensor) -> Hop:
        return Hop(self._spec.plan_version, self._next_stage, parts, rows, self._transport.name, clock_ns())

    def _check(self, sent: Future[Any]) -> None:
        """Tell the coordinator of a hop that did not arrive; it knows better whether somebody died."""
        error = sent.exception()
        if error is not None:
            spec = self._spec
            self._transport.post(
                spec.source, "stage_failed", spec.plan_version, self._next_stage, self._next_device, str(error)
            )


BULK_HOP_S = 600.0
"""A prompt chunk may wait this long for its turn at the next stage; a lost device is noticed by other means."""


def peak_rss_bytes() -> int:
    """The most memory that this process has held. `ru_maxrss` would count its parent's too: it survives exec."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # no /proc here
    return int(psutil.Process().memory_info().rss)


def _boot_id() -> str:
    """Tells machines of one name apart: phones are all called localhost."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as boot_id:
            return boot_id.read().strip()
    except OSError:
        return f"{uuid.getnode():x}"


def _network_namespace() -> str:
    """Tells containers of one machine apart: between them lies more than its loopback."""
    try:
        return os.readlink("/proc/self/ns/net")
    except OSError:
        return ""


def _on_thread(name: str, work: Callable[[], Any]) -> Future[Any]:
    """Run `work` on a thread of its own; what it returns or raises goes to the caller."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # it travels to the caller
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
