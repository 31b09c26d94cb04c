"""`shardnet task`: summaries, translations, labels and features of texts, as transformers' pipelines have them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from shardnet.cluster.launched import announced_in
from shardnet.cluster.load_options import LoadOptions
from shardnet.launch.flags import Here, flattened
from shardnet.launch.generate.command import running_cluster
from shardnet.launch.generate.glance import refuse_at_once
from shardnet.launch.generate.options import DeviceOptions, GenerateOptions, ModelOptions, OutputOptions
from shardnet.launch.task.options import TaskName, TaskRequest, TextsOptions, read_labels, read_stop
from shardnet.launch.values import read_split
from shardnet.process.imports import importing
from shardnet.process.surroundings import require_address_space
from shardnet.session.options import GenerationOptions
from shardnet.tasks.asking import prompt_for
from shardnet.tasks.names import TRANSLATION, WRITING, check_arguments, task_named
from shardnet.tasks.options import TaskOptions


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="task")(flattened(task))


def task(
    what: TaskName,
    whom: ModelOptions,
    asked: Annotated[
        TaskOptions,
        Here("candidate_labels", default=None, read=read_labels),
        Here("stop", default=None, read=read_stop),
    ],
    texts: TextsOptions,
    where: DeviceOptions,
    load: Annotated[LoadOptions, Here("split", read=read_split)],
) -> None:
    """Summarize, translate, classify or go on with texts, or make vectors of them.

    Example: shardnet task summarization --model smollm2-135m-instruct --devices 2 report.txt
    """
    name, files = task_named(what.name), what.files or []
    check_arguments(name, list(asked.given))
    if name == TRANSLATION:
        prompt_for(name, asked)
    texts.check_sources(files)
    is_local = where.cluster is None and where.devices is None
    is_launched = is_local and announced_in(os.environ) is not None
    running_in = None if is_launched else running_cluster(whom.model, where)
    output = OutputOptions(json=texts.json)
    model = GenerateOptions(whom.model or "", (), where, load, GenerationOptions(), output, is_launched, running_in)
    if running_in is None:
        refuse_at_once(model, must_write=name in WRITING)
    require_address_space()
    with importing():
        from shardnet.launch.task.run import run_task

    run_task(TaskRequest(name, model, asked, texts, tuple(files)))
