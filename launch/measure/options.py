"""The options of `shardnet profile`, each declared once, with what may stand there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shardnet.loader.sources import EMBEDDED_NAME
from shardnet.options import Number, OneOf, Whole
from shardnet.plan import DTYPES
from shardnet.process.compute import CPU, require_form
from shardnet.quantised.kv_names import AUTO as KV_AUTO
from shardnet.quantised.kv_names import KV_DTYPES
from shardnet.quantised.schemes import AUTO, SCHEMES

_NUM_CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class ProfileOptions:
    """What is measured, how, and where it goes."""

    model: Annotated[
        str, typer.Option("--model", "-m", help="A folder, a .gguf file, a hub id, or a name in configs/models/.")
    ] = EMBEDDED_NAME
    dtype: Annotated[str, OneOf(DTYPES), typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "bfloat16"
    weights: Annotated[
        str,
        OneOf(SCHEMES),
        typer.Option("--weights", help="How weights are held: int4, int8, w8a8, or a dtype. auto: as generate has it."),
    ] = AUTO
    kv_dtype: Annotated[
        str,
        OneOf(KV_DTYPES),
        typer.Option("--kv-dtype", help="What keys and values are kept in: int8, or auto, as --dtype says."),
    ] = KV_AUTO
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the profile there, as JSON.")
    ] = None
    threads: Annotated[
        int | None,
        Whole(1, _NUM_CORES, f"between 1 and {_NUM_CORES}, the cores of this machine"),
        typer.Option("--threads", help="Measure with so many threads. [default: (those that pay)]"),
    ] = None
    compute: Annotated[
        str, typer.Option("--compute", help="Measure what computes there: cpu, cuda:0 (or another number), mps.")
    ] = CPU
    refresh: Annotated[bool, typer.Option("--refresh", help="Measure even where a fresh profile is kept.")] = False
    max_seconds: Annotated[
        float,
        Number("above 0 and at most 86400", 0, 86_400, above=True),
        typer.Option("--max-seconds", help="Measure for about so long."),
    ] = 60.0
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")] = False

    def __post_init__(self) -> None:
        require_form(self.compute)
