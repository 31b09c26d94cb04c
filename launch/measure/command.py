"""`shardnet profile`: what this device gives with a model, measured or estimated, kept and used again."""

from __future__ import annotations

import json as json_format
import os
from pathlib import Path
from typing import Annotated

import typer

from shardnet.errors import BadRequest, UsageError
from shardnet.foreign.quoting import quoted
from shardnet.launch.files.model_configs import EMBEDDED_MODEL
from shardnet.launch.files.output_files import require_writable
from shardnet.plan import DTYPES
from shardnet.progress import progress_bars


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="profile")(profile)


def profile(
    model: Annotated[
        str, typer.Option("--model", "-m", help="A folder, a .gguf file, a hub id, or a name in configs/models/.")
    ] = EMBEDDED_MODEL,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "bfloat16",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the profile there, as JSON.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Measure with so many threads. [default: (those that pay)]")
    ] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Measure even where a fresh profile is kept.")] = False,
    max_seconds: Annotated[float, typer.Option("--max-seconds", help="Measure for about so long.")] = 60.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")] = False,
) -> None:
    """Measure what this device gives: seconds of every unit, memory, threads that pay, power.

    The weights are not needed, only the model's configuration. For a model in configs/models/ the times are estimated
    from those of a reference model. Clusters place models by what is measured here.
    """
    _check(dtype, threads, max_seconds)
    require_writable(out, "--out")
    from shardnet.launch.measure.run import run_profile
    from shardnet.launch.measure.tables import as_object, as_tables

    with progress_bars(enabled=False if json else None) as progress:
        result = run_profile(
            model, dtype, num_threads=threads, refresh=refresh, max_seconds=max_seconds, progress=progress
        )
    text = json_format.dumps(as_object(result), indent=None if json and out is None else 1)
    if out is not None:
        _write(text, out)
    if json:
        print(text)
    else:
        as_tables(result, out)


def _check(dtype: str, threads: int | None, max_seconds: float) -> None:
    if dtype not in DTYPES:
        raise BadRequest(f"--dtype must be one of {', '.join(DTYPES)}, but is {quoted(dtype)}.")
    if not 0 < max_seconds < 86_400:
        raise BadRequest(f"--max-seconds must be above 0 and below 86400, but is {quoted(max_seconds)}.")
    num_cores = os.cpu_count() or 1
    if threads is not None and not 0 < threads <= num_cores:
        raise BadRequest(
            f"--threads must be between 1 and {num_cores}, the cores of this machine, but is {quoted(threads)}."
        )


def _write(text: str, out: Path) -> None:
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as cause:
        raise UsageError(f"Cannot write {out}: {cause.strerror}. Name another file with --out.") from cause
