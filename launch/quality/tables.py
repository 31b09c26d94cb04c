"""What `shardnet quality` found: a table for a person, one object for a program."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from shardnet.foreign.quoting import counted
from shardnet.launch.console import plain_console, size, table_console
from shardnet.launch.quality.results import Row
from shardnet.launch.quality.run import QualityResult
from shardnet.quantised.kv_names import AUTO
from shardnet.release import __version__


def as_object(result: QualityResult) -> dict[str, Any]:
    """Plain values for JSON, which knows no infinity: null stands for it."""
    rows = [{name: _finite(value) for name, value in asdict(row).items()} for row in result.rows]
    return {**asdict(result), "rows": rows, "shardnet_version": __version__}


def show(result: QualityResult, plot: Path | None) -> None:
    """Print what was found."""
    table = Table(title=_title(result), title_justify="left")
    table.add_column("weights")
    has_kv = any(row.kv_dtype != AUTO for row in result.rows)
    if has_kv:
        table.add_column("keys, values")
    for heading in ("perplexity", "change", "same likeliest token", "size", "decoding tokens/s", "reading tokens/s"):
        table.add_column(heading, justify="right")
    for row in result.rows:
        table.add_row(*_cells(row, has_kv=has_kv))
    table_console().print(table)
    console = plain_console(soft_wrap=True)
    if len(result.rows) > 1:
        console.print(f"Changes are against {result.reference}; behind +/-, their standard error on this text.")
    if plot is not None:
        console.print(f"Drawn in {plot}.")


def _title(result: QualityResult) -> str:
    windows = f"{result.num_windows} windows of {result.window}" if result.num_windows > 1 else "one window"
    return (
        f"{result.model}, reading {result.title}: {result.num_tokens} tokens in {windows}, over "
        f"{counted(len(result.devices), 'devices')}"
    )


def _cells(row: Row, *, has_kv: bool) -> tuple[str, ...]:
    rate = row.decode_tokens_per_s
    return (
        row.weights,
        *([row.kv_dtype] if has_kv else []),
        f"{row.perplexity:.4g}" if row.perplexity < 1000 else f"{row.perplexity:.3g}",
        change_of(row),
        "" if row.same_likeliest is None else f"{row.same_likeliest:.1%}",
        size(row.weight_bytes),
        "" if rate is None else f"{rate:.1f}",
        f"{row.score_tokens_per_s:.0f}",
    )


def change_of(row: Row) -> str:
    """The change of the perplexity in words; empty for the reference."""
    if row.change is None:
        return ""
    error = "" if row.change_error is None or not math.isfinite(row.change_error) else f" +/- {row.change_error:.2%}"
    return f"{row.change:+.2%}{error}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
