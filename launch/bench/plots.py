"""A picture of what `shardnet bench` found: tokens per second of each place, a panel for each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shardnet.foreign.quoting import counted
from shardnet.launch.bench.options import SESSIONS
from shardnet.launch.bench.run import Found
from shardnet.launch.bench.tables import row_of
from shardnet.launch.files.pictures import save_picture


def draw_rates(found: Found, path: Path) -> None:
    """Medians as lines, from the least to the most as bars.

    Raises:
        UsageError: the file cannot be written.
    """
    rows = [row_of(row) for row in found.rows]
    kinds = list(dict.fromkeys(row["what"] for row in rows))

    def draw(pyplot: Any) -> Any:
        figure, axes = pyplot.subplots(1, len(kinds), figsize=(5 * len(kinds), 4), squeeze=False, layout="constrained")
        figure.suptitle(f"{found.model} ({found.dtype})")
        for kind, axis in zip(kinds, axes[0], strict=True):
            _draw_kind(axis, kind, [row for row in rows if row["what"] == kind])
        return figure

    save_picture(draw, path)


def _draw_kind(axis: Any, kind: str, rows: list[dict[str, Any]]) -> None:
    along = "sessions" if kind == SESSIONS else "prompt_tokens"
    for label in dict.fromkeys(map(_label, rows)):
        line = sorted((row for row in rows if _label(row) == label), key=lambda row: int(row[along]))
        middles = [row["tokens_per_s"] for row in line]
        below = [row["tokens_per_s"] - row["tokens_per_s_least"] for row in line]
        above = [row["tokens_per_s_most"] - row["tokens_per_s"] for row in line]
        places = [row[along] for row in line]
        axis.errorbar(places, middles, yerr=(below, above), marker="o", markersize=4, capsize=3, label=label)
    axis.set_title(kind, fontsize=10)
    axis.set_xlabel("conversations at once" if kind == SESSIONS else "tokens of the prompt")
    axis.set_ylabel("tokens/s")
    axis.set_ylim(bottom=0)
    axis.grid(color="#dddddd", linewidth=0.5)
    axis.legend(fontsize=8, frameon=False)


def _label(row: dict[str, Any]) -> str:
    label = f"{counted(row['devices'], 'devices')} ({row['split']})"
    return f"{label}, prompt {row['prompt_tokens']}" if row["what"] == SESSIONS else label
