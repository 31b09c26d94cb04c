"""Puts a model on devices: what is to be placed, where, then every device loads its own shard at the same time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, as_completed, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shardnet.checks import whole_number
from shardnet.cluster.copies import require_copies
from shardnet.cluster.model import Model
from shardnet.cluster.placement import (
    LEAST_KV_TOKENS,
    SPREAD,
    check_method,
    check_num_devices,
    given_plan,
    kv_budgets,
    place,
    problem_of,
)
from shardnet.cluster.remote_stage import RemoteStage
from shardnet.cluster.survey import EXPECTED_TOKENS, Surveyor
from shardnet.errors import BadRequest, ClusterError, DeviceLost, ShardnetError
from shardnet.foreign.quoting import quoted
from shardnet.loader import ModelFiles, open_model
from shardnet.plan import DTYPES, Plan, StagePlan
from shardnet.progress import Progress
from shardnet.session.sessions import VERDICT_S, Pipeline
from shardnet.transport.base import Transport
from shardnet.transport.messages import RingId, RingStop, StageKey, StageSizes, StageSpec, Tokens

UNLOAD_S = 5.0
MOST_SESSIONS = 2**32
"""So many numbers a loaded model takes for its sessions."""

Answer = TypeVar("Answer")


class ModelLoad:
    """One loaded (or loading) model, as the cluster's endpoints and its watch see it."""

    def __init__(
        self, transport: Transport, ring_id: RingId, progress: Progress, on_closed: Callable[[], object]
    ) -> None:
        self.transport = transport
        self.ring_id = ring_id
        self.progress = progress
        self.stages: list[RemoteStage] = []
        self.pipeline: Pipeline | None = None
        self._plan: tuple[StagePlan, ...] = ()
        self._loaded_s: float | None = None
        self._ended: Future[None] = Future()
        """Fails when a device that matters is lost, or the model is closed."""
        self._lock = threading.Lock()
        self._on_closed = on_closed

    def on_tokens(self, tokens: Tokens) -> None:
        if self.pipeline is not None:
            self.pipeline.tell(tokens)

    def on_session_failed(self, session: int, text: str) -> None:
        if self.pipeline is not None:
            self.pipeline.fail_session(session, BadRequest(text))

    def on_progress(self, stage: int, done_bytes: int, total_bytes: int) -> None:
        stages = self.stages
        if stage < len(stages):
            self.progress(f"loading {stages[stage].plan.device}", done_bytes, total_bytes)

    def on_profile_progress(self, device: str, done: float, total: float) -> None:
        self.progress(f"profiling {device}", done, total)

    def fail(self, error: ShardnetError) -> None:
        if self.pipeline is not None:
            self.pipeline.fail(error)

    def place(self, stages: Sequence[StagePlan]) -> None:
        """From now on it is known which device holds which stage."""
        with self._lock:
            self._plan = tuple(stages)

    def add(self, stage: RemoteStage) -> None:
        self.stages.append(stage)

    def result_of(self, answer: Future[Answer]) -> Answer:
        """Wait for a device's answer, but no longer than until a device is lost or the load is given up."""
        either: tuple[Future[Any], ...] = (answer, self._ended)
        wait(either, return_when=FIRST_COMPLETED)
        if self._ended.done():
            self._ended.result()
        return answer.result()

    def wait_until_loaded(self, loads: Sequence[Future[StageSizes]]) -> None:
        """All devices load at the same time; the first error ends it."""
        if self._ended.done():  # closed by another thread: its stages are no longer listed
            self._ended.result()
        for loaded in as_completed(loads):
            self.result_of(loaded)
        for stage, sizes in zip(self.stages, loads, strict=True):
            stage.loaded(sizes.result())
        self._loaded_s = time.monotonic()

    def check_stages(self, device: str, present: Collection[StageKey], asked_s: float) -> None:
        """A device has said which stages it has. One that has dropped a stage of this ring has broken it.

        It does so when it cannot reach this process any more, though it can still be reached: what it was to send, a
        token or a hidden state, went nowhere, and its session would wait for ever.
        """
        if self._loaded_s is None or asked_s <= self._loaded_s:
            return
        for index, stage in enumerate(self._plan):
            if stage.device == device and (self.ring_id, index) not in present:
                self.fail(
                    ClusterError(
                        f"{device} has dropped stage {index + 1} of {len(self._plan)}, as its connection to this "
                        "process broke. Load the model again."
                    )
                )

    def lose(self, device: str, why: str) -> None:
        """A device was lost: if it holds a stage, the ring is broken. Lets go of what lived there."""
        with self._lock:
            held = [index for index, stage in enumerate(self._plan) if stage.device == device]
            if self._plan and not held:
                return
            lost = DeviceLost(f"{device} is lost ({why}){self._what_it_held(held)}", device)
            for stage in self.stages:
                if stage.plan.device == device:
                    stage.release()
        self._end(lost)
        self.fail(lost)

    def _what_it_held(self, held: Sequence[int]) -> str:
        if not held:
            return " before the model was placed. Load it again on the devices left."
        stage = self._plan[held[0]]
        return (
            f", and with it stage {held[0] + 1} of {len(self._plan)} (units {stage.first_unit} to {stage.last_unit}). "
            "Load the model again on the devices left."
        )

    def verdict(self, error: ShardnetError) -> ShardnetError:
        """What an error during the load comes from. If a connection broke, whoever watches the devices knows more."""
        if isinstance(error, DeviceLost):
            wait((self._ended,), timeout=VERDICT_S)
        cause = self._ended.exception() if self._ended.done() else None
        return cause if isinstance(cause, DeviceLost) else error

    def close(self) -> None:
        """Unload from every living device. Safe to call twice, and while it is still being loaded.

        A device that is busy or frozen is not waited for longer than `UNLOAD_S`; it does as it was told when it can.
        """
        with self._lock:
            stages, self.stages = self.stages, []
        closed = BadRequest("the model was closed. Load it again.")
        try:
            self._end(closed)
            self.fail(closed)
            wait([stage.unload() for stage in stages], timeout=UNLOAD_S)
        finally:
            for stage in stages:
                stage.release()
            self._on_closed()  # from now on, devices end by themselves what they were not told to end

    def _end(self, why: ShardnetError) -> None:
        with suppress(InvalidStateError):  # the first reason counts
            self._ended.set_exception(why)


@dataclass(frozen=True)
class LoadOptions:
    """What `Cluster.load` was asked for; see there."""

    dtype: str
    placement: str
    objective: str
    in_flight: int
    split: tuple[int, ...] | None
    context_tokens: int | None
    kv_memory_bytes: int | None
    prefill_chunk_tokens: int
    record_spans: bool
    cache_dir: Path

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise BadRequest(f"dtype must be one of {', '.join(DTYPES)}, but is {quoted(self.dtype)}.")
        check_method(self.placement, self.objective)
        for name in ("in_flight", "context_tokens", "kv_memory_bytes", "prefill_chunk_tokens"):
            if (value := getattr(self, name)) is not None:
                whole_number(name.replace("_", "-"), value, least=1, most=2**63 - 1)


def split_of(split: Any) -> tuple[int, ...] | None:
    """Units for each device, as the caller wrote them down; None where the planner is to decide.

    Raises:
        BadRequest: it is no list of whole numbers.
    """
    if split is None:
        return None
    if isinstance(split, str) or not isinstance(split, Iterable):
        raise BadRequest(f"the split must be a list of units for each device, but is {quoted(split)}.")
    return tuple(whole_number("units of a device in the split", count, least=0) for count in split)


def load_model(
    load: ModelLoad, model: str | Path | ModelFiles, devices: Sequence[str], surveyor: Surveyor, options: LoadOptions
) -> Model:
    """Open, place and load `model` over `devices`; see `Cluster.load`."""
    if isinstance(model, ModelFiles):
        opened = model
    else:
        opened = open_model(str(model), options.dtype, cache_dir=options.cache_dir, progress=load.progress)
    context_tokens = check_context(opened.profile.name, opened.profile.context_tokens, options.context_tokens)
    files = require_copies(opened, devices, load.transport, options.cache_dir, load.progress, load.result_of)
    plan, budgets = plan_load(load, files, devices, surveyor, options, context_tokens)
    ring = tuple(RingStop(stage.device, stage.first_unit, stage.last_unit) for stage in plan.stages)
    load.place(plan.stages)
    for index, stage in enumerate(plan.stages):
        spec = StageSpec(
            ring_id=load.ring_id,
            stage=index,
            ring=ring,
            source=load.transport.name,
            checkpoint=files.copy.name,
            tensors=files.roots_of(stage.first_unit, stage.last_unit),
            dtype=options.dtype,
            kv_budget_bytes=budgets[index],
            prefill_chunk_tokens=options.prefill_chunk_tokens,
            record_spans=options.record_spans,
        )
        load.add(RemoteStage(load.transport, spec, stage))
    numbers = itertools.count(load.transport.draw("session", MOST_SESSIONS))
    load.pipeline = Pipeline(load.transport, load.ring_id, ring, numbers)
    loads = [stage.load() for stage in load.stages]
    tokenizer = opened.tokenizer()  # the devices load meanwhile
    load.wait_until_loaded(loads)
    return Model(
        load.pipeline,
        load.stages,
        plan,
        files.profile,
        tokenizer,
        eos_ids=tuple(files.eos_ids),
        context_tokens=context_tokens,
        unload=load.close,
    )


def plan_load(
    load: ModelLoad,
    files: ModelFiles,
    devices: Sequence[str],
    surveyor: Surveyor,
    options: LoadOptions,
    context_tokens: int,
) -> tuple[Plan, list[int]]:
    """The plan, and the KV budget of each stage in bytes."""
    kv_bytes, version = options.kv_memory_bytes, load.ring_id.plan_version
    if options.split is not None:
        plan = given_plan(options.split, files.profile, devices, version)
        return plan, kv_budgets(plan, files.profile, surveyor.memory(devices), kv_bytes)
    if options.placement == SPREAD:
        check_num_devices(len(devices), files.profile.num_units, files.profile.name)
    expected_tokens = min(EXPECTED_TOKENS, max(1, context_tokens // 2))
    store = options.cache_dir / "profiles"
    survey = surveyor.survey(
        devices, files, store, load.progress, wait_for=load.result_of, context_tokens=expected_tokens
    )
    problem = problem_of(
        files.profile,
        survey.devices,
        survey.links,
        context_tokens=min(context_tokens, LEAST_KV_TOKENS),
        kv_memory_bytes=kv_bytes,
    )
    plan = place(problem, options.placement, options.objective, options.in_flight, version)
    return plan, kv_budgets(plan, files.profile, survey.devices, kv_bytes)


def check_context(model: str, longest: int, wanted: int | None) -> int:
    """Tokens that a session may have; `longest` is what the model was made for."""
    if wanted is None:
        return longest
    if not 1 <= wanted <= longest:
        raise BadRequest(
            f"context must be between 1 and the {longest} tokens that {model} was made for, but is {quoted(wanted)}."
        )
    return wanted
