"""Performs what `shardnet generate` was asked: a cluster, a model on it, answers, and what the run looked like."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.text import Text

import shardnet
from shardnet.cluster.cluster import Cluster
from shardnet.cluster.model import Generation, Model
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import counted
from shardnet.launch.generate.early import open_early
from shardnet.launch.generate.options import GenerateOptions
from shardnet.launch.generate.report import as_json, size, speed_line, stage_table, stderr_console
from shardnet.process.lasting import as_option
from shardnet.process.standard_streams import say
from shardnet.profiling.power import PowerWatch, battery_from_sysfs
from shardnet.progress import Progress, progress_bars
from shardnet.source.running_cluster import RunningCluster
from shardnet.timeline.events import Event


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
            cluster, model = open_model(options, tokenizer, progress, resources)
        if options.output.stats and not options.output.json:
            _show_plan(model, cluster)
            _show_question(options)
        model.reset_report()
        num_before = len(model.events)
        with PowerWatch(battery_from_sysfs) as power:
            done = _answer(model, options)
        stages, plan, events = model.report(), model.plan, model.events[num_before:]
        if options.output.profile is not None:
            model.write_profile(options.output.profile)
    is_all_here = options.running_in is None and not options.uses_running_devices
    joules = _joules_per_token(done, power.active_w) if is_all_here else None
    about = {
        "model": model.profile.name,
        "dtype": model.profile.dtype,
        "weights": model.profile.few_bits or model.profile.dtype,
        "unit_weights": list(model.profile.unit_weights),
        "predicted_loss": model.profile.predicted_loss,
        "kv_dtype": model.profile.dtype if model.profile.kv_dtype == "auto" else model.profile.kv_dtype,
        "seed": options.generation.seed,
        "plan_version": plan.version,
        "predicted_lap_s": plan.lap_s,
        "measured_lap_s": plan.measured_lap_s,
        "joules_per_token": joules,
        "shardnet_version": shardnet.__version__,
    }
    if options.output.json:
        print(json.dumps(as_json(done.generations, stages, events, about, done.wall_s)))
        return
    console = stderr_console()
    if options.output.stats:
        console.print()
        console.print(stage_table(stages, model.profile.numbers, console.width))
        console.print(speed_line(done.generations, done.wall_s))
        if plan.lap_s is not None and plan.measured_lap_s is not None:
            console.print(f"A token took {plan.measured_lap_s * 1e3:.1f} ms; predicted {plan.lap_s * 1e3:.1f} ms.")
    if options.output.stats and joules is not None:
        console.print(f"A token took {joules:.2f} J of this machine, prompts included.")
    if options.output.profile is not None:
        console.print(f"The profile is in {options.output.profile}: open its trace.json in https://ui.perfetto.dev.")


def open_model(
    options: GenerateOptions,
    tokenizer: Any,
    progress: Progress,
    resources: ExitStack,
    *,
    must_write: bool = True,
) -> tuple[Cluster | RunningCluster, Model]:
    """The cluster and the model that answer, to be closed with `resources`."""
    if options.running_in is not None:
        running = resources.enter_context(RunningCluster.connect(options.running_in, progress=progress))
        model = resources.enter_context(running.model)
        check_loaded(model, options, options.running_in)
        return running, model
    files = open_early(options, tokenizer, progress, must_write=must_write)
    cluster = resources.enter_context(open_cluster(options, progress))
    has_profile = options.output.profile is not None
    on_event = None if options.output.json else _show_event
    asked = replace(options.load, record_spans=has_profile, progress=progress, on_event=on_event)
    return cluster, resources.enter_context(cluster.load(files, **asked))


def open_cluster(options: GenerateOptions, progress: Progress) -> Cluster:
    """The devices that are started, or used, for this run."""
    if not options.uses_running_devices:
        return Cluster.local(options.num_local_devices, threads_per_device=options.where.threads, progress=progress)
    cluster = Cluster.connect(options.where.cluster, progress=progress)
    assert isinstance(cluster, Cluster), "whoever is asked as a source is `running_in`"
    return cluster


def check_loaded(model: Model, options: GenerateOptions, folder: Path) -> None:
    """See that the cluster in a folder holds the model that was asked for.

    Raises:
        BadRequest: the cluster holds another model than the one that was named.
    """
    named, held = Path(options.model).name.removesuffix(".gguf"), model.profile.name
    if options.model and named.lower() != held.lower():
        raise BadRequest(
            f"the cluster in {folder} holds {held}, and not {named}. Leave --model out, or load it there: "
            f"shardnet load {options.model}{as_option(folder)}"
        )


def _show_event(event: Event) -> None:
    """On a line of its own: a piece of the answer may stand before it."""
    say(f"\nshardnet: {event.text}.")


def _joules_per_token(done: _Run, active_w: float | None) -> float | None:
    """Of this machine, prompts included; None where its power cannot be read."""
    num_tokens = sum(len(one.token_ids) for one in done.generations)
    return active_w * done.wall_s / num_tokens if active_w is not None and num_tokens else None


def _show_plan(model: Model, cluster: Cluster | RunningCluster) -> None:
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
