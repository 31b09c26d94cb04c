"""`shardnet serve`: a model as OpenAI's API has one."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from shardnet.cluster.launched import announced_in
from shardnet.cluster.load_options import LoadOptions
from shardnet.launch.flags import Here, Only, flattened
from shardnet.launch.generate.command import running_cluster
from shardnet.launch.generate.glance import refuse_at_once
from shardnet.launch.generate.options import DeviceOptions, GenerateOptions, ModelOptions, OutputOptions
from shardnet.launch.serve.options import ServeOptions
from shardnet.launch.values import GUESSING, read_split, require_draft, require_server
from shardnet.process.allocator import settle_allocator
from shardnet.process.imports import importing
from shardnet.process.surroundings import require_address_space
from shardnet.session.options import GenerationOptions


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="serve")(flattened(serve))


def serve(
    whom: ModelOptions,
    where: DeviceOptions,
    how: ServeOptions,
    load: Annotated[LoadOptions, Here("split", read=read_split)],
    guessing: Annotated[GenerationOptions, Only(GUESSING)],
) -> None:
    """Answer as OpenAI's API does, until Ctrl-C: with the model of a cluster, or with one over devices of its own.

    Example: shardnet serve --model smollm2-135m-instruct --devices 2
    """
    require_server()
    require_draft(guessing)
    keys = how.keys()
    is_local = where.cluster is None and where.devices is None
    is_launched = is_local and announced_in(os.environ) is not None
    running_in = None if is_launched else running_cluster(whom.model, where)
    asked = GenerateOptions(
        whom.model or "", (), where, load, guessing, OutputOptions(json=how.json), is_launched, running_in
    )
    if running_in is None:
        refuse_at_once(asked)
    require_address_space()
    settle_allocator()  # it stays for months, and its threads come and go
    with importing():
        from shardnet.launch.serve.run import run

    run(asked, how, keys)
