"""`shardnet quality`: what a model loses and gains with weights of fewer bits, measured on a text."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from shardnet.cluster.launched import announced_in
from shardnet.cluster.load_options import LoadOptions
from shardnet.errors import BadRequest
from shardnet.launch.files.output_files import require_picture
from shardnet.launch.flags import Here, Only, flattened
from shardnet.launch.generate.command import running_cluster
from shardnet.launch.generate.glance import refuse_at_once
from shardnet.launch.generate.options import DeviceOptions, GenerateOptions, ModelOptions, OutputOptions
from shardnet.launch.quality.options import (
    COMPARED,
    QualityRequest,
    ResultOptions,
    TextOptions,
    WeightOptions,
    read_kv_dtypes,
    read_schemes,
)
from shardnet.launch.values import read_split, require_model
from shardnet.process.imports import importing
from shardnet.process.surroundings import require_address_space
from shardnet.progress import progress_bars
from shardnet.quantised.kv_names import AUTO
from shardnet.quantised.schemes import SCHEMES
from shardnet.session.options import GenerationOptions


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="quality")(flattened(quality))


def quality(
    whom: ModelOptions,
    weights: WeightOptions,
    what: TextOptions,
    where: DeviceOptions,
    load: Annotated[LoadOptions, Only(("split", "quality")), Here("split", read=read_split)],
    result: ResultOptions,
) -> None:
    """Show what weights of fewer bits cost and bring: perplexity, likeliest tokens, memory, speed.

    Each scheme is loaded over the devices in turn, and reads the same text; so is each checkpoint of --also. A cluster
    that is asked (--cluster) shows the model as it holds it.

    Example: shardnet quality --model smollm2-135m-instruct --weights bfloat16,int4 --plot quality.png
    """
    require_picture(result.plot)
    is_local = where.cluster is None and where.devices is None
    is_launched = is_local and announced_in(os.environ) is not None
    running_in = None if is_launched else running_cluster(whom.model, where)
    named = read_schemes(weights.weights)
    also = tuple(weights.also or ())
    if running_in is not None and also:
        raise BadRequest("--also is for a model that is loaded for this, with --model. Leave it out.")
    for other in also:
        require_model("--also", other)
    if len({Path(other).name for other in also} | set(SCHEMES)) < len(also) + len(SCHEMES):
        raise BadRequest(
            "--also names two checkpoints alike, or one like weights of a scheme; give their folders other names."
        )
    kv_dtypes = read_kv_dtypes(weights.kv_dtype)
    if running_in is not None and (named or kv_dtypes):
        option = "--weights" if named else "--kv-dtype"
        raise BadRequest(
            f"{option} is for loading a model, and the cluster in {running_in} has loaded its own. Leave it out, or "
            "name a model with --model and no cluster."
        )
    output = OutputOptions(json=result.json)
    model = GenerateOptions(whom.model or "", (), where, load, GenerationOptions(), output, is_launched, running_in)
    schemes = () if running_in is not None else named or COMPARED
    request = QualityRequest(
        model, schemes, what.title, what.read(), what.tokens, what.window, kv_dtypes or (AUTO,), also
    )
    if running_in is None:
        for each in (model, *(replace(model, model=other) for other in also)):
            refuse_at_once(each)
    with progress_bars(enabled=False if result.json else None) as progress:
        require_address_space()
        with importing():
            from shardnet.launch.quality.run import run_quality
            from shardnet.launch.quality.tables import as_object, show
        found = run_quality(request, progress)
    if result.plot is not None:
        from shardnet.launch.quality.plots import draw_quality

        draw_quality(found, result.plot)
    if result.json:
        print(json.dumps(as_object(found)))
    else:
        show(found, result.plot)
