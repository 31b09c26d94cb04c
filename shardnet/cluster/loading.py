"""Puts a model on devices: what is to be placed, where, then every device loads its own shard at the same time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from shardnet.cluster.bits import losses_of, with_bits
from shardnet.cluster.blueprint import Blueprint
from shardnet.cluster.copies import require_copies
from shardnet.cluster.deployment import Deployment
from shardnet.cluster.load_options import LoadOptions, loss_of
from shardnet.cluster.model import Model
from shardnet.cluster.placement import (
    LEAST_KV_TOKENS,
    PLANNING_S,
    check_num_devices,
    given_plan,
    place,
    problem_of,
    setting_aside,
)
from shardnet.cluster.ring import Ring
from shardnet.cluster.survey import EXPECTED_TOKENS, Survey, Surveyor
from shardnet.codecs.names import AUTO, sent_as
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.loader import ModelFiles, open_model, read_authored
from shardnet.models.sizes import kept_as
from shardnet.plan import DeviceProfile, Link, Plan
from shardnet.planner.names import SPREAD
from shardnet.planner.problem import Problem
from shardnet.process.cache_folder import cache_folder
from shardnet.progress import Progress
from shardnet.quantised.schemes import settled
from shardnet.shipping.dispatch import Dispatch
from shardnet.transport.base import Transport

MOST_SESSIONS = 2**32
"""So many numbers a loaded model takes for its sessions."""


def load_model(
    deployment: Deployment,
    model: str | Path | ModelFiles,
    devices: Sequence[str],
    surveyor: Surveyor,
    options: LoadOptions,
) -> Model:
    """Open, place and load `model` over `devices`; see `Cluster.load`."""
    if not isinstance(model, ModelFiles):
        cache_dir = cache_folder(options.cache_dir)
        model = open_model(
            str(model), options.dtype, weights=options.weights, cache_dir=cache_dir, progress=deployment.progress
        )
    context_tokens = check_context(model.profile.name, model.profile.context_tokens, options.context_tokens)
    files = named_for(
        devices, deployment.dispatch, model, options, progress=deployment.progress, wait_for=deployment.result_of
    )
    ring_id = deployment.next_ring_id()
    version = ring_id.plan_version
    names = (files.copy.name, model.copy.name)
    placed = place_model(deployment, files, names, devices, surveyor, options, context_tokens, version)
    files = placed.files
    deployment.dispatch.learn(placed.links)
    plan = placed.plan
    blueprint = Blueprint(
        deployment.transport.name,
        files,
        options,
        version,
        placed.devices,
        placed.links,
        context_tokens,
        deployment.keep_s,
    ).with_codecs_of(plan)
    ring = Ring(deployment.transport, plan.stages, blueprint.specs(ring_id, plan.stages, plan))
    deployment.place(ring, session_numbers(deployment.transport))
    loads = ring.load()
    tokenizer = model.tokenizer()  # the devices load meanwhile
    deployment.wait_until_loaded(loads)
    deployment.stand(blueprint, plan)
    return model_of(deployment, files, tokenizer, context_tokens)


def named_for(
    devices: Sequence[str],
    dispatch: Dispatch,
    opened: ModelFiles,
    options: LoadOptions,
    *,
    progress: Progress,
    wait_for: Callable[[Future[Any]], Any] = Future.result,
) -> ModelFiles:
    """What was opened, as its stages are to have it, under a name by which devices find it; see `require_copies`."""
    opened = replace(opened, profile=kept_as(opened.profile, opened.config, options.kv_dtype))
    if options.wire not in (None, AUTO):
        opened = replace(opened, profile=sent_as(opened.profile, options.wire))
    cache_dir = cache_folder(options.cache_dir)
    return require_copies(opened, devices, dispatch, cache_dir, progress, wait_for)


def session_numbers(transport: Transport) -> Iterator[int]:
    """Numbers for the sessions of one loaded model."""
    return itertools.count(transport.draw("session", MOST_SESSIONS))


def model_of(deployment: Deployment, files: ModelFiles, tokenizer: Any, context_tokens: int) -> Model:
    """A model whose stages are there."""
    return Model(
        deployment,
        files.profile,
        tokenizer,
        checkpoint=files.copy.name,
        eos_ids=tuple(files.eos_ids),
        context_tokens=context_tokens,
        authored=read_authored(files.folder),
    )


class Placed(NamedTuple):
    """Where a model goes."""

    plan: Plan
    devices: tuple[DeviceProfile, ...]
    links: tuple[Link, ...]
    files: ModelFiles
    """The same model, with the bits that were chosen for it, where they were."""


def place_model(
    deployment: Deployment,
    files: ModelFiles,
    names: Sequence[str],
    devices: Sequence[str],
    surveyor: Surveyor,
    options: LoadOptions,
    context_tokens: int,
    version: int,
) -> Placed:
    """Decide which device gets what.

    Args:
        names: all that its checkpoint has.
    """
    kv_bytes = options.kv_memory_bytes
    if options.split is not None:
        plan = given_plan(options.split, files.profile, devices, version)
        return Placed(plan, tuple(surveyor.memory(devices)), (), files)
    if options.placement == SPREAD:
        check_num_devices(len(devices), files.profile.num_units, files.profile.name)
    expected_tokens = min(EXPECTED_TOKENS, max(1, context_tokens // 2))
    store = cache_folder(options.cache_dir) / "profiles"

    def look(files: ModelFiles) -> Survey:
        progress, wait_for = deployment.progress, deployment.result_of
        return surveyor.survey(devices, files, store, progress, wait_for=wait_for, context_tokens=expected_tokens)

    def pose(files: ModelFiles, survey: Survey) -> Problem:
        return problem_of(
            files.profile,
            survey.devices,
            survey.links,
            context_tokens=min(context_tokens, LEAST_KV_TOKENS),
            kv_memory_bytes=kv_bytes,
            private_to=options.private_to,
        )

    def solve(problem: Problem, most_s: float = PLANNING_S) -> Plan:
        return place(problem, options.placement, options.objective, options.in_flight, version, most_s)

    if options.quality is None:
        survey = look(files)
        with setting_aside(kv_bytes, files.profile, survey.devices):
            return Placed(solve(pose(files, survey)), survey.devices, survey.links, files)
    losses = losses_of(names, cache_folder(options.cache_dir))
    goal, limit = (options.objective, options.in_flight), loss_of(options.quality)
    files, plan, survey = with_bits(files, limit, losses, look, pose, partial(solve, most_s=PLANNING_S / 4), goal)
    return Placed(plan, survey.devices, survey.links, files)


def check_model(model: object, dtype: str, weights: str) -> None:
    """
    Raises:
        BadRequest: it is no model, or was opened to be loaded in another dtype.
    """
    if isinstance(model, ModelFiles):
        if model.dtype != dtype:
            raise BadRequest(
                f"{model.name} was opened as {model.dtype}, but dtype is {dtype}. Open it as {dtype}, too."
            )
        if model.weights != settled(weights, dtype, model.made_as):
            raise BadRequest(
                f"{model.name} was opened with weights {model.weights}, but weights is {weights}. Open it with weights "
                f"{weights}, too."
            )
    elif not isinstance(model, (str, Path)):
        raise BadRequest(f"a model is a path or a hub id, but this is {quoted(model)}.")


def check_context(model: str, longest: int, wanted: int | None, option: str = "context_tokens") -> int:
    """Tokens that a session may have; `longest` is what the model was made for, `option` what the caller calls it."""
    if wanted is None:
        return longest
    if not 1 <= wanted <= longest:
        raise BadRequest(
            f"{option} must be between 1 and the {longest} tokens that {model} was made for, but is {quoted(wanted)}."
        )
    return wanted
