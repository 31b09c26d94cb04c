"""Puts a model on devices: what is to be placed, where, then every device loads its own shard at the same time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from shardnet.errors import BadRequest, DeviceLost, ShardnetError
from shardnet.loader import open_model
from shardnet.model import Model
from shardnet.pipeline import Pipeline
from shardnet.placement import place
from shardnet.plan import ModelProfile
from shardnet.progress import Progress
from shardnet.remote_stage import RemoteStage
from shardnet.transport.base import Transport
from shardnet.transport.messages import RingStop, StageSpec, Tokens

DTYPES = ("float32", "bfloat16", "float16")


class ModelLoad:
    """One loaded (or loading) model, as the cluster's endpoints and its watch see it."""

    def __init__(self, transport: Transport, plan_version: int, progress: Progress) -> None:
        self.transport = transport
        self.plan_version = plan_version
        self.progress = progress
        self.stages: list[RemoteStage] = []
        self.pipeline: Pipeline | None = None
        self._lost: DeviceLost | None = None
        self._lock = threading.Lock()

    def on_tokens(self, tokens: Tokens) -> None:
        if self.pipeline is not None:
            self.pipeline.tell(tokens)

    def on_progress(self, stage: int, done_bytes: int, total_bytes: int) -> None:
        stages = self.stages
        if stage < len(stages):
            self.progress(f"loading {stages[stage].plan.device}", done_bytes, total_bytes)

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
        self.fail(BadRequest("the model was closed. Load it again."))
        for stage in self.stages:
            lost = self._lost is not None and stage.plan.device == self._lost.device
            if not lost:
                stage.close()

    def raise_if_lost(self) -> None:
        if self._lost is not None:
            raise self._lost


def load_model(
    load: ModelLoad,
    model: str | Path,
    devices: Sequence[str],
    *,
    dtype: str,
    split: Sequence[int] | None,
    context_tokens: int | None,
    kv_memory_bytes: int | None,
    prefill_chunk_tokens: int,
    record_spans: bool,
) -> Model:
    """Open, place and load `model` over `devices`; see `Cluster.load`."""
    if dtype not in DTYPES:
        raise BadRequest(f"dtype must be one of {', '.join(DTYPES)}, but is {dtype!r}.")
    if prefill_chunk_tokens < 1:
        raise BadRequest(f"prefill-chunk-tokens must be at least 1, but is {prefill_chunk_tokens}.")
    files = open_model(str(model), dtype, progress=load.progress)
    profile = files.profile
    context = check_context(profile, context_tokens)
    plan, kv_budgets = place(
        load.transport,
        profile,
        devices,
        plan_version=load.plan_version,
        split=split,
        context_tokens=context,
        kv_memory_bytes=kv_memory_bytes,
    )
    ring = tuple(RingStop(stage.device, stage.first_unit, stage.last_unit) for stage in plan.stages)
    for index, stage in enumerate(plan.stages):
        spec = StageSpec(
            plan_version=load.plan_version,
            stage=index,
            ring=ring,
            source=load.transport.name,
            model=str(files.folder),
            tensors=files.tensors_of(stage.first_unit, stage.last_unit),
            dtype=dtype,
            kv_budget_bytes=kv_budgets[index],
            prefill_chunk_tokens=prefill_chunk_tokens,
            record_spans=record_spans,
        )
        load.stages.append(RemoteStage(load.transport, spec, stage))
    load.pipeline = Pipeline(load.transport, load.plan_version, ring)
    try:
        wait_until_loaded(load)
    except BaseException:
        load.close()
        raise
    return Model(
        load.pipeline,
        load.stages,
        plan,
        profile,
        files.tokenizer(),
        eos_ids=tuple(files.eos_ids),
        context_tokens=context,
    )


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
