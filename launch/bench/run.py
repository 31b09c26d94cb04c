"""Performs what `shardnet bench` was asked: a cluster for each place, the model on it, and turns of all points."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from shardnet.cluster.cluster import Cluster
from shardnet.cluster.load_options import LoadOptions
from shardnet.cluster.model import Model
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import counted
from shardnet.launch.bench.grid import Place, Point, places_of, points_of
from shardnet.launch.bench.options import BenchOptions, read_text
from shardnet.launch.bench.prompts import Prompts
from shardnet.launch.bench.turns import Turn, take_turn
from shardnet.loader import ModelFiles, open_model
from shardnet.process.lasting import folder_of, require_running
from shardnet.progress import Progress
from shardnet.session.options import GenerationOptions
from shardnet.session.request import require_writer
from shardnet.source.running_cluster import RunningCluster


@dataclass(frozen=True)
class Measured:
    """A row: one point at one place."""

    devices: tuple[str, ...]
    """Those that hold something."""
    num_units: tuple[int, ...]
    """Of each of them."""
    predicted_lap_s: float | None
    point: Point
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Found:
    """All rows, and what they are about."""

    model: str
    dtype: str
    machine: str
    torch: str
    rows: tuple[Measured, ...]


def run_bench(options: BenchOptions, load: LoadOptions, answering: GenerationOptions, progress: Progress) -> Found:
    """Measure all points at all places.

    Raises:
        ShardnetError: what `Cluster.local`, `Cluster.load` and `Model.stream` raise.
    """
    points = points_of(options)
    if options.cluster is not None:
        with ExitStack() as resources:
            model = _running_model(options.cluster, progress, resources)
            return _found(model, measure_points(model, points, options, answering, progress, reads_power=False))
    rows: list[Measured] = []
    files = open_model(options.model, load.dtype, weights=load.weights, progress=progress)
    require_writer(files.profile)
    for place in places_of(options):
        with ExitStack() as resources:
            model = _local_model(place, files, options, replace(load, progress=progress), resources)
            where = counted(place.num_devices, "devices") + (f" ({_by_hand(place)})" if place.split else "")
            told = partial(_in_words, progress, where)
            rows += measure_points(model, points, options, answering, told, reads_power=True)
            found = _found(model, rows)
    return found


def measure_points(
    model: Model,
    points: Sequence[Point],
    options: BenchOptions,
    answering: GenerationOptions,
    progress: Progress,
    *,
    reads_power: bool,
) -> list[Measured]:
    """Turns in which each point has its own: what changes on the machine meanwhile falls on all."""
    _require_context(model, points)
    model.eos_ids = ()  # every answer has all its tokens
    text = None if options.text is None else model.encode(read_text(options.text))
    prompts = Prompts(model.profile.vocabulary, text)
    turns: dict[Point, list[Turn]] = {point: [] for point in points}
    num_turns = options.warm_up + options.repetitions
    for number in range(num_turns):
        for done, point in enumerate(points):
            progress("measuring", number * len(points) + done, num_turns * len(points))
            turn = take_turn(model, point, prompts, answering, reads_power=reads_power)
            if number >= options.warm_up:
                turns[point].append(turn)
    progress("measuring", 1, 1)
    plan = model.plan
    devices = tuple(stage.device for stage in plan.stages)
    num_units = tuple(stage.num_units for stage in plan.stages)
    return [Measured(devices, num_units, plan.lap_s, point, tuple(turns[point])) for point in points]


def _running_model(address: str, progress: Progress, resources: ExitStack) -> Model:
    folder = folder_of(address)
    if folder is None:
        raise BadRequest("--cluster must be the state folder of a cluster that shardnet up started.")
    require_running(folder)
    running = resources.enter_context(RunningCluster.connect(Path(folder), progress=progress))
    return resources.enter_context(running.model)


def _local_model(
    place: Place, files: ModelFiles, options: BenchOptions, load: LoadOptions, resources: ExitStack
) -> Model:
    cluster = resources.enter_context(
        Cluster.local(place.num_devices, threads_per_device=options.threads, progress=load.progress)
    )
    asked = load if place.split is None else replace(load, split=place.split)
    return resources.enter_context(cluster.load(files, **asked))


def _require_context(model: Model, points: Sequence[Point]) -> None:
    """
    Raises:
        BadRequest: a conversation would be longer than the model allows.
    """
    longest = max(point.context_tokens for point in points)
    if longest > model.context_tokens:
        raise BadRequest(
            f"a conversation would have {longest} tokens, but this model has room for {model.context_tokens}. "
            "Ask for shorter ones with --prompt, --prefill and --tokens."
        )


def _found(model: Model, rows: Sequence[Measured]) -> Found:
    machine = f"{platform.machine()}, {counted(os.cpu_count() or 1, 'cores')}"
    return Found(model.profile.name, model.profile.dtype, machine, torch.__version__, tuple(rows))


def _in_words(progress: Progress, where: str, what: str, done: float, total: float) -> None:
    progress(f"{what} {where}", done, total)


def _by_hand(place: Place) -> str:
    return ",".join(map(str, place.split or ()))
