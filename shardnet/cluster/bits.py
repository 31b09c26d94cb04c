"""Weights of a model that is about to be loaded in as few bits as a user allows it to lose by: see `planner.bits`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace

from shardnet.cluster.survey import Survey, mixed_profile
from shardnet.errors import BadRequest, UnsupportedModel
from shardnet.loader import ModelFiles
from shardnet.plan import Plan
from shardnet.planner.problem import Problem
from shardnet.profiling.losses import Loss
from shardnet.quantised.schemes import INT4, INT8

FEW = (INT8, INT4)
"""What weights may be rounded to, those with most bits first."""

Look = Callable[[ModelFiles], Survey]
"""What the devices can do with a model."""
Pose = Callable[[ModelFiles, Survey], Problem]


def require_floats(files: ModelFiles, losses: Mapping[str, Loss]) -> None:
    """See that there is something to choose, and that it is known what it costs.

    Raises:
        BadRequest: the file has few bits already, or nobody has measured what few bits cost this model.
    """
    if files.profile.few_bits:
        raise BadRequest(
            f"{files.name} has weights of few bits in its file already, and quality chooses how 16 bits are rounded. "
            "Leave it out."
        )
    if not losses.keys() & set(FEW):
        raise BadRequest(
            f"what few bits cost {files.name} was not measured yet, and quality goes by it. Measure it once: "
            f"shardnet quality --model {shlex.quote(str(files.folder))} --weights {files.dtype},{','.join(FEW)}"
        )


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
    from shardnet.planner.bits import Offer, Search  # here, so that commands say what they take without it

    require_floats(files, losses)
    surveys: dict[str, Survey] = {}
    offers: dict[str, Offer] = {}
    for scheme in (files.dtype, *(scheme for scheme in FEW if scheme in losses)):
        try:
            held = files.held_as([scheme] * files.profile.num_units)
        except UnsupportedModel:  # its rows are no whole groups
            continue
        surveys[scheme] = look(held)
        change = 0.0 if scheme == files.dtype else losses[scheme].change
        offers[scheme] = Offer(pose(held, surveys[scheme]), change)
    mix = Search(offers, limit, *goal, solve).best()
    first = surveys[files.dtype]
    devices = tuple(
        mixed_profile({scheme: each.devices[index] for scheme, each in surveys.items()}, mix.schemes)
        for index in range(len(first.devices))
    )
    plan = replace(mix.plan, unit_weights=mix.schemes, predicted_loss=mix.loss)
    return files.held_as(mix.schemes, mix.loss), plan, Survey(devices, first.links)
