"""`shardnet profile`: what this device gives with a model, measured or estimated, kept and used again."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from shardnet.errors import UsageError
from shardnet.launch.files.output_files import require_writable
from shardnet.launch.flags import flattened
from shardnet.launch.measure.options import ProfileOptions
from shardnet.progress import progress_bars


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="profile")(flattened(profile))


def profile(options: ProfileOptions) -> None:
    """Measure what this device gives: seconds of every unit, memory, threads that pay, power.

    The weights are not needed, only the model's configuration. For a model in configs/models/ the times are estimated
    from those of a reference model. Clusters place models by what is measured here.
    """
    require_writable(options.out, "--out")
    from shardnet.launch.measure.run import run_profile
    from shardnet.launch.measure.tables import as_object, as_tables

    with progress_bars(enabled=False if options.json else None) as progress:
        result = run_profile(options, progress)
    text = json.dumps(as_object(result), indent=None if options.json and options.out is None else 1)
    if options.out is not None:
        _write(text, options.out)
    if options.json:
        print(text)
    else:
        as_tables(result, options.out)


def _write(text: str, out: Path) -> None:
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as cause:
        raise UsageError(f"Cannot write {out}: {cause.strerror}. Name another file with --out.") from cause
