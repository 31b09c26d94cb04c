"""A picture of what weights of fewer bits cost and bring. matplotlib is imported only when it is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardnet.launch.files.pictures import save_picture
from shardnet.launch.quality.results import Row
from shardnet.launch.quality.run import QualityResult

MB = 1e6
_POINT, _REFERENCE = "#2a7f62", "#3d5a80"


def draw_quality(result: QualityResult, path: Path) -> None:
    """Perplexity against the bytes of the weights, and against tokens per second: below is better.

    Raises:
        UsageError: the file cannot be written.
    """
    rows = [row for row in result.rows if math.isfinite(row.perplexity)]

    def draw(pyplot: Any) -> Any:
        figure, (memory, speed) = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
        figure.suptitle(f"{result.model}, {result.num_tokens} tokens of {result.title}")
        _draw(memory, rows, [row.weight_bytes / MB for row in rows], "MB of weights")
        with_rate = [row for row in rows if row.decode_tokens_per_s is not None]
        _draw(speed, with_rate, [row.decode_tokens_per_s or 0.0 for row in with_rate], "decoding, tokens/s")
        memory.set_ylabel("perplexity")
        return figure

    save_picture(draw, path)


def _draw(axis: Any, rows: Sequence[Row], values: Sequence[float], label: str) -> None:
    for row, value in zip(rows, values, strict=True):
        colour = _REFERENCE if row.change is None else _POINT
        axis.scatter([value], [row.perplexity], color=colour, zorder=2)
        axis.annotate(row.label, (value, row.perplexity), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axis.set_xlabel(label)
    axis.set_xlim(0, 1.25 * max(values, default=1.0) or 1.0)
    axis.margins(y=0.2)
    axis.grid(color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)
