"""`shardnet bench`: how fast a model answers, over devices, splits, lengths and numbers of conversations."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Annotated

import typer

from shardnet.cluster.load_options import LoadOptions
from shardnet.grammars.texts import KINDS
from shardnet.launch.bench.options import BenchOptions, read_counts, read_splits
from shardnet.launch.files.output_files import require_picture, require_writable
from shardnet.launch.flags import Here, Only, flattened
from shardnet.launch.values import require_draft
from shardnet.process.imports import importing
from shardnet.process.surroundings import require_address_space
from shardnet.progress import progress_bars
from shardnet.session.options import GenerationOptions

_LOADING = tuple(field.name for field in fields(LoadOptions) if field.name != "split")
_FIXED = (
    *("chat", "max_new_tokens", "stop", "seed"),
    *("logit_bias", "stop_token_ids", "min_tokens", "ignore_eos", *KINDS),
)
_ANSWERING = tuple(field.name for field in fields(GenerationOptions) if field.name not in _FIXED)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="bench")(flattened(bench))


def bench(
    options: Annotated[
        BenchOptions,
        Here("devices", default=None, read=read_counts("--devices")),
        Here("splits", default=None, read=read_splits),
        Here("prompt", default="16", read=read_counts("--prompt")),
        Here("prefill", default="512", read=read_counts("--prefill")),
        Here("sessions", default="8", read=read_counts("--sessions")),
    ],
    load: Annotated[LoadOptions, Only(_LOADING), Here("standby", default="none"), Here("rebalance", default=False)],
    answering: Annotated[GenerationOptions, Only(_ANSWERING)],
) -> None:
    """Measure decoding, prefill and several conversations at once: medians and percentiles of several turns.

    Example: shardnet bench --devices 1,2,3 --prompt 16,512 --csv rates.csv --plot rates.png
    """
    require_picture(options.plot)
    require_writable(options.csv, "--csv")
    options.check_load(load)
    require_draft(answering)
    with progress_bars(enabled=False if options.json else None) as progress:
        require_address_space()
        with importing():
            from shardnet.launch.bench.run import run_bench
            from shardnet.launch.bench.tables import as_csv, as_object, as_table
        found = run_bench(options, load, answering, progress)
    if options.csv is not None:
        options.csv.write_text(as_csv(found), encoding="utf-8", newline="")
    if options.plot is not None:
        from shardnet.launch.bench.plots import draw_rates

        draw_rates(found, options.plot)
    if options.json:
        print(json.dumps(as_object(found)))
    else:
        as_table(found)
