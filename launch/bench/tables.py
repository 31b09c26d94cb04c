"""What `shardnet bench` found: a table for a person, one object for a program, lines for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.table import Table

import shardnet
from shardnet.launch.bench.percentiles import percentile
from shardnet.launch.bench.run import Found, Measured
from shardnet.launch.console import table_console


def row_of(row: Measured) -> dict[str, Any]:
    """The plain values of a row, with names that say what they are; None where there is nothing to say."""
    rates = [turn.tokens_per_s for turn in row.turns]
    gaps_ms = [1e3 * gap_s for turn in row.turns for gap_s in turn.gaps_s]
    joules = [turn.joules_per_token for turn in row.turns if turn.joules_per_token is not None]
    return {
        "what": row.point.what,
        "devices": len(row.devices),
        "split": ",".join(map(str, row.num_units)),
        "sessions": row.point.num_sessions,
        "prompt_tokens": row.point.prompt_tokens,
        "new_tokens": row.point.new_tokens,
        "repetitions": len(row.turns),
        "tokens_per_s": median(rates),
        "tokens_per_s_least": min(rates),
        "tokens_per_s_most": max(rates),
        "first_token_ms": 1e3 * median(turn.first_token_s for turn in row.turns),
        "token_ms_p50": percentile(gaps_ms, 50),
        "token_ms_p90": percentile(gaps_ms, 90),
        "token_ms_p99": percentile(gaps_ms, 99),
        "joules_per_token": median(joules) if joules else None,
        "predicted_lap_ms": None if row.predicted_lap_s is None else 1e3 * row.predicted_lap_s,
        **_guesses(row),
    }


def _guesses(row: Measured) -> dict[str, int]:
    """Of all turns together."""
    checked = sum(turn.guesses_checked for turn in row.turns)
    return {"guesses_checked": checked, "guesses_right": sum(turn.guesses_right for turn in row.turns)}


def as_object(found: Found) -> dict[str, Any]:
    """The object of `--json`: the rows, each with all its turns."""
    about = {key: value for key, value in asdict(found).items() if key != "rows"}
    rows = [{**row_of(row), "turns": [_turn(turn) for turn in row.turns]} for row in found.rows]
    return {**about, "shardnet_version": shardnet.__version__, "rows": rows}


def as_csv(found: Found) -> str:
    """A line for each row, behind a line of names."""
    rows = [row_of(row) for row in found.rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_table(found: Found) -> None:
    """Print it. Tokens per second are medians, with the least and the most."""
    table = Table(title=f"{found.model} ({found.dtype}), {found.machine}, torch {found.torch}", title_justify="left")
    table.add_column("what")
    headings = ["devices", "units", "sessions", "prompt", "tokens/s", "first token, ms", "ms a token: p50, p90, p99"]
    rows = [row_of(row) for row in found.rows]
    knows_power = any(row["joules_per_token"] is not None for row in rows)
    has_guesses = any(row["guesses_checked"] for row in rows)
    for heading in headings + ["J a token"] * knows_power + ["guesses right"] * has_guesses:
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [row["devices"], row["split"], row["sessions"], row["prompt_tokens"], _rate(row)]
        cells += [f"{row['first_token_ms']:.4g}", _numbers(row[f"token_ms_p{share}"] for share in (50, 90, 99))]
        cells += [_numbers([row["joules_per_token"]])] * knows_power
        cells += [f"{row['guesses_right']} of {row['guesses_checked']}"] * has_guesses
        table.add_row(row["what"], *map(str, cells))
    table_console().print(table)


def _turn(turn: Any) -> dict[str, Any]:
    return {**asdict(turn), "gaps_s": list(turn.gaps_s)}


def _rate(row: dict[str, Any]) -> str:
    return f"{row['tokens_per_s']:.4g} ({row['tokens_per_s_least']:.4g} to {row['tokens_per_s_most']:.4g})"


def _numbers(values: Any) -> str:
    known: Sequence[float] = [value for value in values if value is not None]
    return ", ".join(f"{value:.3g}" for value in known)
