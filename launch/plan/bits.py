"""`--quality` on paper: in how many bits the units of a model are, so that its plan is fast and it loses no more.

What few bits cost a model is known of its weights (`shardnet quality`), so that these must be on this machine; sizes
and times are those of the paper cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from shardnet.cluster.load_options import loss_of
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.launch.files.config_files import numbers_alone
from shardnet.launch.files.model_configs import is_hub_id
from shardnet.launch.plan.inputs import Asked
from shardnet.loader.hub.models import in_cache
from shardnet.loader.sources import name_of
from shardnet.plan import Plan
from shardnet.planner.bits import Search
from shardnet.planner.problem import Problem
from shardnet.process.cache_folder import cache_folder
from shardnet.process.imports import importing
from shardnet.process.surroundings import require_address_space
from shardnet.progress import Progress
from shardnet.quantised.schemes import FAST_DTYPE, INT4

if TYPE_CHECKING:
    from shardnet.loader import ModelFiles
    from shardnet.profiling.losses import Loss

SETTING_S = 2.0
"""The longest search for a plan of one setting of bits, where the user says nothing: many are tried."""


def in_bits_that_pay(
    asked: Asked,
    model: str,
    quality: str,
    goal: tuple[str, int],
    solve: Callable[[Problem], Plan],
    progress: Progress,
) -> Asked:
    """The problem with a scheme for each unit, as `Cluster.load` chooses them.

    Args:
        quality: the loss that is allowed.
        goal: the objective, and sessions in flight.
        solve: finds a plan soon, or raises DoesNotFit.

    Raises:
        UsageError: the model is known by its numbers alone or has few bits already, or nobody has measured what few
            bits cost it.
        DoesNotFit: nothing within the limit fits.
    """
    require_address_space()
    with importing():
        from shardnet.cluster.bits import offers_of

    def pose(held: ModelFiles) -> Problem:
        return asked.in_schemes(held.profile.unit_weights).problem

    progress("choosing bits", 0, 1)
    offers = offers_of(*_known_of(model, progress), pose)
    mix = Search(offers, loss_of(quality), *goal, solve).best()
    progress("choosing bits", 1, 1)
    few = offers.get(INT4)
    fewer_bits = None if few is None else (f"weights int4, which lose {few.loss:.2%}", few.problem)
    is_least = set(mix.schemes) == {INT4}
    return replace(asked.in_schemes(mix.schemes, mix.loss), fewer_bits=None if is_least else fewer_bits)


def _known_of(model: str, progress: Progress) -> tuple[ModelFiles, dict[str, Loss]]:
    """The model's files, and what few bits cost it, by scheme.

    Raises:
        UsageError: there are no files of it, as `open_model`; they are not on this machine.
    """
    from shardnet.cluster.bits import losses_of, not_measured
    from shardnet.loader import AT_ONCE_BYTES, fingerprint, open_model

    if numbers_alone(model) is not None:
        raise BadRequest(
            f"--quality goes by what few bits cost a model, which is measured with its weights, but {quoted(model)} is "
            "known by its numbers alone. Name its folder, its .gguf file or its hub id, or say --weights."
        )
    if is_hub_id(model) and in_cache(model, cache_folder()) is None:
        raise not_measured(name_of(model), model, FAST_DTYPE)
    files = open_model(model, FAST_DTYPE, progress=progress)
    hashed = fingerprint(files.copy, cache_folder(), progress, most_bytes=AT_ONCE_BYTES)
    names = [files.copy.name] if hashed is None else [hashed.name, files.copy.name]
    return files, losses_of(names, cache_folder())
