"""`shardnet generate` and `shardnet demo`: a model over several devices answers prompts."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from shardnet.cluster.launched import announced_in
from shardnet.cluster.load_options import LoadOptions
from shardnet.errors import BadRequest
from shardnet.launch.flags import Here, Only, flattened
from shardnet.launch.generate.glance import read_tokenizer_early, refuse_at_once
from shardnet.launch.generate.options import (
    DeviceOptions,
    GenerateOptions,
    ModelOptions,
    OutputOptions,
    PromptOptions,
    read_biases,
    read_choices,
    read_ids,
    read_lark,
    read_prompts,
    read_schema,
    read_stops,
)
from shardnet.launch.values import given_or_any, read_split, require_draft
from shardnet.loader.sources import EMBEDDED_NAME
from shardnet.process.imports import importing
from shardnet.process.lasting import default_folder, folder_of, is_running, require_running
from shardnet.process.surroundings import require_address_space
from shardnet.progress import progress_bars
from shardnet.session.options import GenerationOptions

DEMO_PROMPT = "Why is the sky blue? Explain it to a child in a few sentences."


@dataclass(frozen=True)
class DemoOptions:
    """What the demo asks."""

    prompt: Annotated[str, typer.Option("--prompt", help="What to ask.")] = DEMO_PROMPT


def register(app: typer.Typer) -> None:
    """Add both commands to the command line."""
    app.command(name="demo")(flattened(demo))
    app.command(name="generate")(flattened(generate))


def demo(
    what: DemoOptions,
    generation: Annotated[GenerationOptions, Only(("max_new_tokens",)), Here("max_new_tokens", default=96)],
    where: Annotated[DeviceOptions, Only(("devices", "threads"))],
    load: Annotated[LoadOptions, Only(("dtype", "weights"))],
    output: Annotated[OutputOptions, Only(("profile", "json"))],
) -> None:
    """See it work: a small chat model over three local devices answers a question.

    Needs no network and no files: the model came with the installation.
    """
    _run(
        GenerateOptions(
            EMBEDDED_NAME,
            read_prompts([what.prompt], None),
            where,
            load,
            replace(generation, chat=True, seed=given_or_any(None)),
            replace(output, stats=True),
        )
    )


def generate(
    whom: ModelOptions,
    what: PromptOptions,
    where: DeviceOptions,
    load: Annotated[LoadOptions, Here("split", read=read_split)],
    generation: Annotated[
        GenerationOptions,
        Here("max_new_tokens", default=64),
        Here("seed", default=None, read=given_or_any),
        Here("stop", default=None, read=read_stops),
        Here("logit_bias", default=None, read=read_biases),
        Here("stop_token_ids", default=None, read=read_ids),
        Here("json_schema", default=None, read=read_schema),
        Here("lark", default=None, read=read_lark),
        Here("choice", default=None, read=read_choices),
    ],
    output: OutputOptions,
) -> None:
    """Generate text with a model that is split over several devices.

    Example: shardnet generate --model smollm2-135m-instruct --chat --prompt "What is a shard?" --devices 2 --stats
    """
    is_local = where.cluster is None and where.devices is None
    is_launched = is_local and announced_in(os.environ) is not None
    running_in = None if is_launched else running_cluster(whom.model, where)
    prompts = read_prompts(what.prompt or [], what.prompt_file)
    _run(GenerateOptions(whom.model or "", prompts, where, load, generation, output, is_launched, running_in))


def running_cluster(model: str | None, where: DeviceOptions) -> Path | None:
    """The state folder of the cluster that is to be asked; None where devices are started or used for this run.

    Raises:
        JoinFailed: none runs there.
        BadRequest: neither a model nor a cluster was named, and none runs where they do by default.
    """
    if where.cluster is not None:
        folder = folder_of(where.cluster)
        if folder is not None:
            require_running(folder)
            return folder
    if model is not None:
        return None
    if where.cluster is None and where.devices is None and is_running(default_folder()):
        return default_folder()
    raise BadRequest("There is no --model. Name one, or start a cluster that holds one: shardnet up --model MODEL")


def _run(options: GenerateOptions) -> None:
    require_draft(options.generation)
    if options.running_in is None:
        refuse_at_once(options)
    with progress_bars(enabled=False if options.output.json else None) as progress:
        progress("loading PyTorch", 0, 1)
        require_address_space()
        with importing():
            options.check_environment()
            tokenizer = read_tokenizer_early(options)
            from shardnet.launch.generate.run import (
                run,  # what takes seconds: only once the request is known to make sense
            )

        progress("loading PyTorch", 1, 1)
    run(options, tokenizer)
