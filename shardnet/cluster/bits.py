"""Weights of a model that is about to be loaded in as few bits as a user allows it to lose by: see `planner.bits`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shardnet.cluster.survey import Survey, mixed_profile
from shardnet.errors import BadRequest, UnsupportedModel
from shardnet.loader import ModelFiles
from shardnet.plan import Plan
from shardnet.planner.problem import Problem
from shardnet.profiling.losses import Loss, LossStore
from shardnet.quantised.schemes import INT4, INT8

if TYPE_CHECKING:
    from shardnet.planner.bits import Offer

FEW = (INT8, INT4)
"""What weights may be rounded to, those with most bits first."""

Look = Callable[[ModelFiles], Survey]
"""What the devices can do with a model."""
Pose = Callable[[ModelFiles, Survey], Problem]


def require_floats(files: ModelFiles, losses: Mapping[str, Loss]) -> None:
    """See that there is something to choose, and that it is known what it costs.

    Raises:
        BadRequest: the file has few bits already, the model is a classifier, or nobody has measured what few bits cost
            it.
    """
    if files.profile.classifier is not None:
        raise BadRequest(
            f"quality goes by how likely a text is to a model, and {files.name} is a classifier, which says nothing of "
            "that. Leave it out; weights says in how many bits its blocks are held."
        )
    if files.profile.few_bits:
        raise BadRequest(
            f"{files.name} has weights of few bits in its file already, and quality chooses how 16 bits are rounded. "
            "Leave it out."
        )
    if not losses.keys() & set(FEW):
        raise not_measured(files.name, str(files.folder), files.dtype)


def not_measured(name: str, model: str, dtype: str) -> BadRequest:
    """The error for a model of which nobody knows what few bits cost it; `model` is what to call it in a command."""
    return BadRequest(
        f"what few bits cost {name} was not measured yet, and quality goes by it. Measure it once: "
        f"shardnet quality --model {shlex.quote(model)} --weights {dtype},{','.join(FEW)}"
    )


def losses_of(names: Iterable[str], cache_dir: Path) -> dict[str, Loss]:
    """What was measured of a checkpoint, by scheme.

    Args:
        names: all that it has: one that was hashed since has another one than when it was measured. The first counts.
    """
    store = LossStore(cache_dir)
    found: dict[str, Loss] = {}
    for name in names:
        found = {**store.load(name), **found}
    return found


def offers_of(files: ModelFiles, losses: Mapping[str, Loss], pose: Callable[[ModelFiles], Problem]) -> dict[str, Offer]:
    """What there is to choose from, by scheme, those with most bits first.

    Args:
        pose: the placement of the model with all units in one scheme.

    Raises:
        BadRequest: as `require_floats`.
    """
    from shardnet.planner.bits import Offer  # here, so that commands say what they take without it

    require_floats(files, losses)
    offers: dict[str, Offer] = {}
    for scheme in (files.dtype, *(scheme for scheme in FEW if scheme in losses)):
        try:
            held = files.held_as([scheme] * files.profile.num_units)
        except UnsupportedModel:  # its rows are no whole groups
            continue
        change = 0.0 if scheme == files.dtype else losses[scheme].change
        offers[scheme] = Offer(pose(held), change)
    return offers


def with_bits(
    files: ModelFiles,
    limit: float,
    losses: Mapping[str, Loss],
    look: Look,
    pose: Pose,
    solve: Callable[[Problem], Plan],
    goal: tuple[str, int],
) -> tuple[ModelFiles, Plan, Survey]:
    """The model with a scheme for each unit, its plan, and the devices with their times for these.

    Args:
        limit: the loss that is allowed.
        goal: the objective, and sessions in flight.

    Raises:
        BadRequest: as `require_floats`.
        DoesNotFit: nothing within the limit fits.
    """
    from shardnet.planner.bits import Search

    surveys: dict[str, Survey] = {}

    def posed(held: ModelFiles) -> Problem:
        survey = surveys[held.profile.unit_weights[0]] = look(held)
        return pose(held, survey)

    mix = Search(offers_of(files, losses, posed), limit, *goal, solve).best()
    first = surveys[files.dtype]
    devices = tuple(
        mixed_profile({scheme: each.devices[index] for scheme, each in surveys.items()}, mix.schemes)
        for index in range(len(first.devices))
    )
    plan = replace(mix.plan, unit_weights=mix.schemes, predicted_loss=mix.loss)
    return files.held_as(mix.schemes, mix.loss), plan, Survey(devices, first.links)
