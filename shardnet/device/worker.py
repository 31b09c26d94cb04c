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
from typing import Any, TypeVar

import torch
from transformers import LlamaConfig

from shardnet.device.allocator import return_freed
from shardnet.device.orphans import OrphanWatch
from shardnet.device.outlet import RingOutlet
from shardnet.errors import ClusterError
from shardnet.loader import DEFAULT_CACHE, find_copy, load_shard, read_config, require_copy
from shardnet.models import build_skeleton
from shardnet.profiling.hardware import (
    device_kind,
    group_free_bytes,
    machine_memory,
    num_process_threads,
    process_rss_bytes,
)
from shardnet.profiling.link_probe import expose_probe
from shardnet.profiling.reuse import measure_or_reuse
from shardnet.profiling.store import ProfileStore
from shardnet.stage.cache import KVCache
from shardnet.stage.stage import Stage
from shardnet.timeline.timeline import Recorder, clock_ns
from shardnet.transport.base import Transport
from shardnet.transport.messages import Hop, RingId, SessionSpec, StageKey, StageSpec

Result = TypeVar("Result")


class Worker:
    """One device of a cluster. A context manager: its stages end with the block."""

    transport: Transport

    def __init__(self, num_threads: int, cache_dir: Path = DEFAULT_CACHE) -> None:
        self.num_threads = num_threads
        self.cache_dir = cache_dir.expanduser()
        """Where this device keeps its profiles, and finds its copies of checkpoints."""
        self.weights: weakref.WeakValueDictionary[Any, torch.Tensor] = weakref.WeakValueDictionary()
        """Tensors that stages of this device share (tied embeddings, say), each loaded once, as long as one uses it."""
        self.left = threading.Event()
        """Set when the coordinator has told this device to leave."""
        self._stages: dict[StageKey, StageHost] = {}
        self._lock = threading.Lock()
        self._orphans: OrphanWatch | None = None

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
            ("has_copy", self.has_copy),
            ("profile", self.profile),
            ("ping", clock_ns),
            ("stages", lambda: list(self._stages)),
            ("open_stage", self.open_stage),
            ("hop", self.hop),
            ("bulk_hop", self.bulk_hop),
            ("open_session", self.open_session),
            ("close_sessions", self.close_sessions),
            ("leave", self.left.set),
        ):
            transport.expose(endpoint, handler)
        expose_probe(transport)
        self._orphans = OrphanWatch(transport, self._rings, self._drop)

    @property
    def kind(self) -> str:
        """Devices of one kind on one host are equally fast."""
        return device_kind(self.num_threads)

    def describe(self) -> dict[str, Any]:
        """What this device is and has now. Bytes throughout.

        Devices of one `host` share its memory, those of one `network` the way to others, those of one `kind` are
        equally fast.
        """
        memory, group_free = machine_memory(), group_free_bytes()
        available = memory.available_bytes if group_free is None else min(memory.available_bytes, group_free)
        host = f"{platform.node()}-{_boot_id()}"
        return {
            "device": self.transport.name,
            "pid": os.getpid(),
            "host": host,
            "network": f"{host}-{_network_namespace()}",
            "kind": self.kind,
            "machine": platform.machine(),
            "num_threads": self.num_threads,
            "memory_total_bytes": memory.total_bytes,
            "memory_available_bytes": available,
            "rss_bytes": process_rss_bytes(),
            "peak_rss_bytes": peak_rss_bytes(),
            "num_os_threads": num_process_threads(),
        }

    def has_copy(self, checkpoint: str) -> bool:
        """Whether this device has the files of a checkpoint."""
        return find_copy(checkpoint, self.cache_dir) is not None

    def profile(self, checkpoint: str, dtype: str, max_seconds: float, source: str) -> Future[dict[str, Any]]:
        """Measure this device with a model's units, or take what was measured before; see `profiler`."""

        def tell(_: str, done: float, total: float) -> None:
            self.transport.post(source, "profile_progress", self.transport.name, done, total)

        def measure() -> dict[str, Any]:
            profiled = measure_or_reuse(
                read_config(require_copy(checkpoint, self.cache_dir, self.transport.name).folder),
                dtype,
                ProfileStore(self.cache_dir / "profiles"),
                device=self.kind,
                max_seconds=max_seconds,
                num_threads=self.num_threads,
                must_keep=False,
                progress=tell,
            )
            return {"measurement": profiled.measurement.as_dict(), "not_kept": profiled.not_kept}

        return _on_thread("shardnet-profile", measure)

    def open_stage(self, spec: StageSpec) -> StageHost:
        """Make room for a stage; its weights come with `StageHost.load`.

        Raises:
            ClusterError: it was opened already: a ring's stages are opened once.
        """
        key = spec.ring_id, spec.stage
        with self._lock:
            if key in self._stages:
                raise ClusterError(f"{self.transport.name} has stage {key[1]} of that ring already.")
            host = self._stages[key] = StageHost(self, spec)
        return host

    def forget(self, key: StageKey) -> None:
        with self._lock:
            self._stages.pop(key, None)

    def hop(self, hop: Hop) -> None:
        received_ns = clock_ns()
        self._stage(hop.ring_id, hop.stage).put(hop, received_ns)

    def bulk_hop(self, hop: Hop) -> Future[None]:
        received_ns = clock_ns()
        taken: Future[None] = Future()
        self._stage(hop.ring_id, hop.stage).put(hop, received_ns, lambda: taken.set_result(None))
        return taken

    def open_session(self, ring_id: RingId, stage: int, spec: SessionSpec) -> None:
        self._stage(ring_id, stage).open_session(spec)

    def close_sessions(self, ring_id: RingId, stage: int, sessions: Sequence[int]) -> None:
        host = self._stages.get((ring_id, stage))
        running = None if host is None else host.stage
        if running is not None:
            running.close_sessions(sessions)

    def close(self) -> None:
        """End all stages."""
        if self._orphans is not None:
            self._orphans.close()
        for host in self._hosts():
            host._end()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hosts(self) -> list[StageHost]:
        with self._lock:
            return list(self._stages.values())

    def _rings(self) -> set[tuple[str, RingId]]:
        """The rings that have stages here, each with its coordinator's name."""
        return {(host.source, host.key[0]) for host in self._hosts()}

    def _drop(self, ring_id: RingId) -> None:
        """End the stages of a ring that is no more."""
        for host in self._hosts():
            if host.key[0] == ring_id:
                host._end()

    def _stage(self, ring_id: RingId, stage: int) -> Stage:
        host = self._stages.get((ring_id, stage))
        running = None if host is None else host.stage
        if running is None:
            raise ClusterError(
                f"{self.transport.name} has no stage {stage} of plan {ring_id.plan_version}: "
                "that plan is not in force here."
            )
        return running


class StageHost:
    """A stage's place on a device. The coordinator holds it by a remote object and calls its public methods."""

    def __init__(self, worker: Worker, spec: StageSpec) -> None:
        self.key: StageKey = spec.ring_id, spec.stage
        self.source = spec.source
        self._worker = worker
        self._spec = spec
        self.stage: Stage | None = None
        self._is_begun = False
        self._is_closed = False
        self._lock = threading.Lock()

    def load(self) -> Future[dict[str, Any]]:
        """Load the shard and start the stage; the future gives its sizes.

        Raises:
            ClusterError: it was told before: a stage has one compute thread.
        """
        with self._lock:
            if self._is_begun:
                raise ClusterError("The stage is loaded, or being loaded, already.")
            self._is_begun = True
        return _on_thread("shardnet-load", self._load)

    def report(self) -> dict[str, Any]:
        """Totals since the last `reset`, and memory. Seconds and bytes."""
        stage = self._running()
        num_sessions, kv_reserved_bytes = stage.usage()
        return {
            "totals": stage.recorder.totals().as_dict(),
            "peak_rss_bytes": peak_rss_bytes(),
            "kv_reserved_bytes": kv_reserved_bytes,
            "num_sessions": num_sessions,
        }

    def reset(self) -> None:
        """Forget totals and spans."""
        self._running().recorder.reset()

    def drain_spans(self) -> list[tuple[Any, ...]]:
        return list(self._running().recorder.drain())

    def close(self) -> Future[None]:
        """End the stage and free its weights; a load that is under way ends at its next unit."""
        return _on_thread("shardnet-close", self._end)  # the compute thread may be in a long step

    def _end(self) -> None:
        """The same, and wait for it. Private, so that nobody has it done on a thread of the network."""
        self._worker.forget(self.key)
        with self._lock:
            self._is_closed = True
            stage, self.stage = self.stage, None
            # The handle of a coordinator that was killed keeps this object for ever: let it hold next to nothing.
            self._spec = self._spec._replace(tensors={})
        if stage is not None:
            stage.close()
            del stage
            return_freed()

    def _running(self) -> Stage:
        stage = self.stage
        if stage is None:
            raise ClusterError("The stage is not running: its model was closed, or is still being loaded.")
        return stage

    def _load(self) -> dict[str, Any]:
        worker = self._worker
        with self._lock:
            self._raise_if_closed()
            spec = self._spec
        stop = spec.ring[spec.stage]
        copy = require_copy(spec.checkpoint, worker.cache_dir, worker.transport.name)
        with copy.at_rest():
            shard = load_shard(
                copy.folder,
                copy.places_of(spec.tensors),
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
                RingOutlet(worker.transport, spec, lambda: self._is_closed),
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
        self._worker.transport.post(spec.source, "load_progress", spec.ring_id, spec.stage, done_bytes, total_bytes)


def peak_rss_bytes() -> int:
    """The most memory that this process has held. `ru_maxrss` would count its parent's too: it survives exec."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # no /proc here
    return process_rss_bytes()


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


def _on_thread(name: str, work: Callable[[], Result]) -> Future[Result]:
    """Run `work` on a thread of its own; what it returns or raises goes to the caller."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # it travels to the caller, and must not hold here what the work held
            future.set_exception(error.with_traceback(None))

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
