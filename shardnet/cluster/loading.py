"""Puts a model on devices: what is to be placed, where, then every device loads its own shard at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shardnet.cluster.model import Model
from shardnet.cluster.placement import LEAST_KV_TOKENS, SPREAD, given_plan, kv_budgets, place, problem_of
from shardnet.cluster.remote_stage import RemoteStage
from shardnet.cluster.survey import EXPECTED_TOKENS, Surveyor
from shardnet.errors import BadRequest, DeviceLost, ShardnetError
from shardnet.loader import ModelFiles, open_model
from shardnet.pipeline import Pipeline
from shardnet.plan import ModelProfile, Plan
from shardnet.progress import Progress
from shardnet.transport.base import Transport
from shardnet.transport.messages import RingStop, StageSpec, Tokens

DTYPES = ("float32", "bfloat16", "float16")


class ModelLoad:
    """One loaded (or loading) model, as the cluster's endpoints and its watch see it."""

    def __init__(
        self, transport: Transport, plan_version: int, progress: Progress, on_closed: Callable[[], object]
    ) -> None:
        self.transport = transport
        self.plan_version = plan_version
        self.progress = progress
        self.stages: list[RemoteStage] = []
        self.pipeline: Pipeline | None = None
        self._lost: DeviceLost | None = None
        self._lock = threading.Lock()
        self._on_closed = on_closed

    def on_tokens(self, tokens: Tokens) -> None:
        if self.pipeline is not None:
            self.pipeline.tell(tokens)

    def on_progress(self, stage: int, done_bytes: int, total_bytes: int) -> None:
        stages = self.stages
        if stage < len(stages):
            self.progress(f"loading {stages[stage].plan.device}", done_bytes, total_bytes)

    def on_profile_progress(self, device: str, done: float, total: float) -> None:
        self.progress(f"profiling {device}", done, total)

    def fail(self, error: ShardnetError) -> None:
        if self.pipeline is not None:
            self.pipeline.fail(error)

    def lose(self, device: str, why: str) -> None:
        """A device was lost: if it holds a stage, the ring is broken. Lets go of what lived there."""
        with self._lock:
            lost = [(index, stage) for index, stage in enumerate(self.stages) if stage.plan.device == device]
            if not lost:
                return
            index, stage = lost[0]
            self._lost = DeviceLost(
                f"{device} is lost ({why}), and with it stage {index + 1} of {len(self.stages)} "
                f"(units {stage.plan.first_unit} to {stage.plan.last_unit}). Load the model again on the devices left.",
                device,
            )
            for _, stage in lost:
                stage.close(device_lives=False)
        self.fail(self._lost)

    def close(self) -> None:
        """Unload from every living device. Safe to call twice."""
        with self._lock:
            stages, self.stages = self.stages, []
        self.fail(BadRequest("the model was closed. Load it again."))
        for stage in stages:
            if self._lost is None or stage.plan.device != self._lost.device:
                stage.close()
        self._on_closed()

    def raise_if_lost(self) -> None:
        if self._lost is not None:
            raise self._lost


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
            raise BadRequest(f"dtype must be one of {', '.join(DTYPES)}, but is {self.dtype!r}.")
        for name in ("in_flight", "kv_memory_bytes", "prefill_chunk_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadRequest(f"{name.replace('_', '-')} must be at least 1, but is {value}.")


def load_model(
    load: ModelLoad, model: str | Path, devices: Sequence[str], surveyor: Surveyor, options: LoadOptions
) -> Model:
    """Open, place and load `model` over `devices`; see `Cluster.load`."""
    files = open_model(str(model), options.dtype, cache_dir=options.cache_dir, progress=load.progress)
    context_tokens = check_context(files.profile, options.context_tokens)
    plan, budgets = plan_load(load, files, devices, surveyor, options, context_tokens)
    ring = tuple(RingStop(stage.device, stage.first_unit, stage.last_unit) for stage in plan.stages)
    try:
        for index, stage in enumerate(plan.stages):
            spec = StageSpec(
                plan_version=load.plan_version,
                stage=index,
                ring=ring,
                source=load.transport.name,
                model=str(files.folder),
                tensors=files.tensors_of(stage.first_unit, stage.last_unit),
                dtype=options.dtype,
                kv_budget_bytes=budgets[index],
                prefill_chunk_tokens=options.prefill_chunk_tokens,
                record_spans=options.record_spans,
            )
            load.stages.append(RemoteStage(load.transport, spec, stage))
        load.pipeline = Pipeline(load.transport, load.plan_version, ring)
        wait_until_loaded(load)
        tokenizer = files.tokenizer()
    except BaseException:
        load.close()
        raise
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
    kv_bytes, version = options.kv_memory_bytes, load.plan_version
    if options.split is not None:
        plan = given_plan(options.split, files.profile, devices, version)
        return plan, kv_budgets(plan, files.profile, surveyor.memory(devices), kv_bytes)
    if len(devices) > files.profile.num_units and options.placement == SPREAD:
        raise BadRequest(
            f"{len(devices)} devices are more than the {files.profile.num_units} units of {files.profile.name} "
            f"(embedding, blocks, head). Use at most {files.profile.num_units} devices."
        )
    expected_tokens = min(EXPECTED_TOKENS, max(1, context_tokens // 2))
    store = options.cache_dir / "profiles"
    survey = surveyor.survey(devices, files, store, load.progress, context_tokens=expected_tokens)
    problem = problem_of(
        files.profile,
        survey.devices,
        survey.links,
        context_tokens=min(context_tokens, LEAST_KV_TOKENS),
        kv_memory_bytes=kv_bytes,
    )
    plan = place(problem, options.placement, options.objective, options.in_flight, version)
    return plan, kv_budgets(plan, files.profile, survey.devices, kv_bytes)


def check_context(profile: ModelProfile, wanted: int | None) -> int:
    """Tokens that a session may have."""
    if wanted is None:
        return profile.context_tokens
    if not 1 <= wanted <= profile.context_tokens:
        raise BadRequest(
            f"context must be between 1 and the {profile.context_tokens} tokens that {profile.name} was made for, "
            f"but is {wanted}."
        )
    return wanted


def wait_until_loaded(load: ModelLoad) -> None:
    """Let every device load at the same time; the first error ends it."""
    for stage, sizes in [(stage, stage.load()) for stage in load.stages]:
        try:
            stage.loaded(sizes.result())
        except ShardnetError:
            load.raise_if_lost()
            raise
        load.raise_if_lost()
