"""`shardnet quantise`: a checkpoint of 4 bits, by what a text shows of what its matrices multiply."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from shardnet.cluster.launched import announced_in
from shardnet.cluster.load_options import LoadOptions
from shardnet.errors import BadRequest
from shardnet.launch.flags import Here, Only, flattened
from shardnet.launch.generate.command import running_cluster
from shardnet.launch.generate.glance import refuse_at_once
from shardnet.launch.generate.options import DeviceOptions, GenerateOptions, OutputOptions
from shardnet.launch.quantise.options import QuantiseOptions
from shardnet.launch.values import read_split
from shardnet.process.imports import importing
from shardnet.process.surroundings import require_address_space
from shardnet.progress import progress_bars
from shardnet.session.options import GenerationOptions


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="quantise")(flattened(quantise))


def quantise(
    what: QuantiseOptions,
    where: DeviceOptions,
    load: Annotated[LoadOptions, Only(("split",)), Here("split", read=read_split)],
) -> None:
    """Make a checkpoint of 4 bits that loses less than rounding does: by what a text shows of what matrices multiply.

    Unit by unit on the devices, none of which has more than one unit in floats. A run that was cut off goes on when it
    is given again.

    Example: shardnet quantise --model HuggingFaceTB/SmolLM2-135M-Instruct --weights int4-g64 --out smollm2-g64
    """
    is_local = where.cluster is None and where.devices is None
    is_launched = is_local and announced_in(os.environ) is not None
    if where.cluster is not None and running_cluster(what.model, where) is not None:
        raise BadRequest(
            "--cluster names a cluster of shardnet up, which holds a model of its own. Leave it out, or give the "
            "HOST:PORT of devices that shardnet-run started."
        )
    text = what.read_text()
    asked = GenerateOptions(what.model, (), where, load, GenerationOptions(), OutputOptions(), is_launched)
    refuse_at_once(asked, must_write=False)
    with progress_bars() as progress:
        require_address_space()
        with importing():
            from shardnet.calibration.folder import require_own_place
            from shardnet.launch.generate.run import open_cluster
        require_own_place(what.out)  # before devices start
        with open_cluster(asked, progress) as cluster:
            folder = cluster.quantise(
                what.model, what.out, weights=what.weights, text=text, split=load.split, progress=progress
            )
    print(f"{folder} has the model in 4 bits ({what.weights}). Load it as any other: --model {folder}")
