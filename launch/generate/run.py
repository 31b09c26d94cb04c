"""Performs what `shardnet generate` was asked: a cluster, a model on it, answers, and what the run looked like."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from rich.text import Text

import shardnet
from shardnet.cluster.cluster import Cluster
from shardnet.cluster.events import Event
from shardnet.cluster.model import Generation, Model
from shardnet.foreign.quoting import counted
from shardnet.launch.generate.early import open_early
from shardnet.launch.generate.options import GenerateOptions
from shardnet.launch.generate.report import as_json, size, speed_line, stage_table, stderr_console
from shardnet.loader import ModelFiles
from shardnet.process.standard_streams import say
from shardnet.progress import Progress, progress_bars


@dataclass(frozen=True)
class _Run:
    generations: list[Generation]
    wall_s: float


def run(options: GenerateOptions, tokenizer: Any = None) -> None:
    """Answer the prompts of `options`; text goes to stdout, everything else to stderr.

    Args:
        tokenizer: the model's, where it was read already.
    """
    with ExitStack() as resources:
        with progress_bars(enabled=False if options.output.json else None) as progress:
            files = open_early(options, tokenizer, progress)
            cluster = resources.enter_context(_open_cluster(options, progress))
            model = resources.enter_context(_load(cluster, files, options, progress))
        if options.output.stats and not options.output.json:
            _show_plan(model, cluster)
            _show_question(options)
        model.reset_report()
        done = _answer(model, options)
        stages, plan = model.report(), model.plan
        if options.output.profile is not None:
            model.write_profile(options.output.profile)
    about = {
        "model": model.profile.name,
        "dtype": options.load.dtype,
        "seed": options.generation.seed,
        "plan_version": plan.version,
        "predicted_lap_s": plan.lap_s,
        "measured_lap_s": plan.measured_lap_s,
        "shardnet_version": shardnet.__version__,
    }
    if options.output.json:
        print(json.dumps(as_json(done.generations, stages, model.events, about, done.wall_s)))
        return
    console = stderr_console()
    if options.output.stats:
        console.print()
        console.print(stage_table(stages, options.load.dtype, console.width))
        console.print(speed_line(done.generations, done.wall_s))
        if plan.lap_s is not None and plan.measured_lap_s is not None:
            console.print(f"A token took {plan.measured_lap_s * 1e3:.1f} ms; predicted {plan.lap_s * 1e3:.1f} ms.")
    if options.output.profile is not None:
        console.print(f"The profile is in {options.output.profile}: open its trace.json in https://ui.perfetto.dev.")


def _open_cluster(options: GenerateOptions, progress: Progress) -> Cluster:
    if options.uses_running_devices:
        return Cluster.connect(options.where.cluster, progress=progress)
    return Cluster.local(options.num_local_devices, threads_per_device=options.where.threads, progress=progress)


def _load(cluster: Cluster, files: ModelFiles, options: GenerateOptions, progress: Progress) -> Model:
    has_profile = options.output.profile is not None
    on_event = None if options.output.json else _show_event
    asked = replace(options.load, record_spans=has_profile, progress=progress, on_event=on_event)
    return cluster.load(files, **asked)


def _show_event(event: Event) -> None:
    """On a line of its own: a piece of the answer may stand before it."""
    say(f"\nshardnet: {event.text}.")


def _show_plan(model: Model, cluster: Cluster) -> None:
    console = stderr_console()
    weights = sum(unit.weight_bytes for unit in model.profile.units)
    units = f": {model.profile.num_units} units, {size(weights)}, over {counted(len(cluster.devices), 'devices')}"
    console.print(Text(model.profile.name, style="bold") + Text(units))
    console.print(str(model.plan), soft_wrap=True)


def _show_question(options: GenerateOptions) -> None:
    if len(options.prompts) == 1 and options.generation.chat:
        stderr_console().print(f"\n> {options.prompts[0]}")


def _answer(model: Model, options: GenerateOptions) -> _Run:
    start_s = time.monotonic()
    if len(options.prompts) == 1:
        stream = model.stream(options.prompts[0], **options.generation)
        for piece in stream:
            if not options.output.json:
                print(piece, end="", flush=True)
        if not options.output.json:
            print(flush=True)  # the answer ends its line
        return _Run([stream.result], time.monotonic() - start_s)
    what = f"answering {len(options.prompts)} prompts"
    with progress_bars(enabled=False if options.output.json else None) as progress:
        progress(what, 0, 1)
        generations = model.generate(options.prompts, **options.generation)
        progress(what, 1, 1)
    wall_s = time.monotonic() - start_s
    if not options.output.json:
        for index, (prompt, generation) in enumerate(zip(options.prompts, generations, strict=True), 1):
            print(f"[{index}] {prompt}\n{generation.text.strip()}\n", flush=True)
    return _Run(generations, wall_s)
