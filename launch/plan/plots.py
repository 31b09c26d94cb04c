"""Pictures of a plan and of a simulated run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardnet.launch.files.pictures import save_picture
from shardnet.plan import Plan
from shardnet.planner.costs import Cost, evaluate
from shardnet.planner.problem import Problem
from shardnet.simulator import Result
from shardnet.simulator.engine import Leg, Resource
from shardnet.simulator.ring import decode_legs

GB = 1e9
"""As the tables have it."""
MAX_ROWS = 24
LABEL_ROWS = 5
_WEIGHTS, _KV, _WIRE, _FREE, _HAPPENED = "#2a7f62", "#8ac6a4", "#e09f3e", "#ececec", "#b23a48"


def draw_plan(problem: Problem, plan: Plan, path: Path, title: str) -> None:
    """One lap as a Gantt chart, and the memory of the devices in use as bars.

    Raises:
        UsageError: the file cannot be written.
    """
    cost = evaluate(problem, plan.stages)

    def draw(pyplot: Any) -> Any:
        legs = decode_legs(problem, plan.stages)
        rows = _rows([leg.resource for leg in legs])
        devices = list(plan.devices)[:MAX_ROWS]
        heights = [max(1.5, 0.32 * len(rows)), max(1.2, 0.36 * len(devices))]
        size = (11, 2.2 + sum(heights))
        figure, (lap, memory) = pyplot.subplots(2, 1, figsize=size, height_ratios=heights, layout="constrained")
        figure.suptitle(title)
        _draw_lap(lap, legs, rows)
        hidden = len({leg.resource for leg in legs}) - len(rows)
        if hidden:
            lap.set_title(f"{hidden} more devices and links of the lap are not drawn", fontsize=8, loc="right")
        _draw_memory(memory, problem, plan, cost, devices)
        figure.legend(
            *memory.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3, frameon=False
        )
        return figure

    save_picture(draw, path)


def draw_run(result: Result, path: Path, title: str) -> None:
    """What happened, tokens per second and laps over time, and what each device and link did.

    Raises:
        UsageError: the file cannot be written.
    """

    def draw(pyplot: Any) -> Any:
        rows = _rows([resource for resource, _ in sorted(result.busy_s.items(), key=lambda item: (len(item[0]),))])
        heights = [0.2 * min(LABEL_ROWS, len(result.happenings)) + 0.01, 1.6, 1.6, max(1.5, 0.3 * len(rows))]
        figure, axes = pyplot.subplots(
            4, 1, figsize=(11, 2.5 + sum(heights)), height_ratios=heights, sharex=True, layout="constrained"
        )
        figure.suptitle(title)
        _draw_happenings(axes[0], result)
        _draw_rate(axes[1], result)
        _draw_laps(axes[2], result)
        _draw_busy(axes[3], result, rows)
        for axis in axes:
            for each in result.happenings:
                axis.axvline(each.at_s, color=_HAPPENED, linewidth=0.8, linestyle="--", zorder=0.5)
        return figure

    save_picture(draw, path)


def _rows(resources: Sequence[Resource]) -> dict[Resource, int]:
    """Devices first, then links, each in the order of its first use; the rest of very many is not drawn."""
    unique = list(dict.fromkeys(resources))
    ordered = [each for each in unique if len(each) == 1] + [each for each in unique if len(each) == 2]
    return {resource: row for row, resource in enumerate(ordered[:MAX_ROWS])}


def _row_labels(axis: Any, rows: dict[Resource, int]) -> None:
    axis.set_yticks(list(rows.values()), [" → ".join(resource) for resource in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(axis="x", color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)


def _draw_lap(axis: Any, legs: Sequence[Leg], rows: dict[Resource, int]) -> None:
    at = 0.0
    total = sum(leg.seconds for leg in legs)
    for leg in legs:
        row = rows.get(leg.resource)
        if row is not None:
            colour = _WEIGHTS if len(leg.resource) == 1 else _WIRE
            axis.barh(row, leg.seconds * 1e3, left=at * 1e3, height=0.62, color=colour, edgecolor=colour, linewidth=0.5)
            _label_leg(axis, leg, row, at, total)
        at += leg.seconds
    _row_labels(axis, rows)
    axis.set_xlim(0, at * 1e3 or 1)
    axis.set_xlabel(f"ms of one lap (predicted: {at * 1e3:.4g} ms a token)")


def _label_leg(axis: Any, leg: Leg, row: int, at: float, total: float) -> None:
    """Its time: within the bar where it is long, else behind it, and before it where the picture ends."""
    end = at + leg.seconds
    x, offset, side, colour = end, 3, "left", "black"
    if leg.seconds > 0.12 * total:
        x, offset, side = at + leg.seconds / 2, 0, "center"
        colour = "white" if len(leg.resource) == 1 else "black"
    elif end > 0.85 * total:
        x, offset, side = at, -3, "right"
    axis.annotate(
        f"{leg.seconds * 1e3:.3g} ms",
        (x * 1e3, row),
        xytext=(offset, 0),
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=7,
        color=colour,
    )


def _draw_memory(axis: Any, problem: Problem, plan: Plan, cost: Cost, devices: Sequence[str]) -> None:
    weights = dict.fromkeys(devices, 0.0)
    for stage in plan.stages:
        if stage.device in weights:
            units = problem.units[stage.first_unit : stage.last_unit + 1]
            weights[stage.device] += sum(unit.weight_bytes for unit in units)
    for row, name in enumerate(devices):
        offered = problem.devices[problem.index[name]].memory_bytes
        used = cost.device_memory_bytes[name]
        axis.barh(row, offered / GB, height=0.7, color=_FREE, label="offered" if not row else None)
        axis.barh(row, weights[name] / GB, height=0.5, color=_WEIGHTS, label="weights" if not row else None)
        kv = (used - weights[name]) / GB
        axis.barh(row, kv, left=weights[name] / GB, height=0.5, color=_KV, label="KV cache" if not row else None)
        text = f" {used / GB:.3g} of {offered / GB:.3g} GB"
        axis.text(max(offered, used) / GB, row, text, va="center", fontsize=7)
    axis.set_yticks(range(len(devices)), devices, fontsize=8)
    axis.set_ylim(len(devices) - 0.5, -0.5)
    axis.margins(x=0.18)
    axis.set_xlabel("GB of memory")


def _draw_rate(axis: Any, result: Result) -> None:
    """Each token counts evenly over the time that its lap took: whole tokens in bins would make a calm rate jump."""
    bins = 200
    width = result.duration_s / bins or 1.0
    tokens = [0.0] * bins
    for lap in result.laps:
        for number in range(int(lap.start_s / width), min(bins - 1, int(lap.end_s / width)) + 1):
            shared_s = min(lap.end_s, (number + 1) * width) - max(lap.start_s, number * width)
            tokens[number] += shared_s / lap.seconds if lap.seconds else 0.0
    axis.step([i * width for i in range(bins)], [each / width for each in tokens], where="post", color=_WEIGHTS)
    axis.set_ylabel("tokens/s\n(predicted)", fontsize=8)
    axis.set_ylim(bottom=0)


def _draw_laps(axis: Any, result: Result) -> None:
    points = [(lap.end_s, lap.seconds * 1e3) for lap in result.laps]
    axis.scatter([x for x, _ in points], [y for _, y in points], s=4, color="#3d5a80", linewidths=0)
    axis.set_ylabel("ms a token", fontsize=8)
    values = sorted(y for _, y in points)
    if values and values[-1] > 20 * values[0] > 0:
        axis.set_yscale("log")
    else:
        axis.set_ylim(0, 1.2 * values[-1] if values else 1)


def _draw_busy(axis: Any, result: Result, rows: dict[Resource, int]) -> None:
    bars: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for span in result.spans:
        row = rows.get(span.resource)
        if row is not None:
            colour = _WIRE if len(span.resource) == 2 else _KV if "decode" not in span.label else _WEIGHTS
            bars.setdefault((row, colour), []).append((span.start_s, span.end_s - span.start_s))
    for (row, colour), spans in bars.items():
        axis.broken_barh(spans, (row - 0.31, 0.62), facecolors=colour, edgecolors=colour, linewidth=0.3)
    _row_labels(axis, rows)
    axis.set_xlim(0, result.duration_s or 1)
    axis.set_xlabel("s (dark: decode, light: prefill and recovery, orange: wire)")


def _draw_happenings(axis: Any, result: Result) -> None:
    """A strip with their names above the curves; those near the end are written to the left of their lines."""
    axis.axis("off")
    num_rows = min(LABEL_ROWS, len(result.happenings)) or 1
    axis.set_ylim(num_rows - 0.5, -0.5)
    for number, each in enumerate(result.happenings):
        is_late = each.at_s > 0.7 * result.duration_s
        axis.annotate(
            each.what,
            (each.at_s, number % num_rows),
            xytext=(-3 if is_late else 3, 0),
            textcoords="offset points",
            ha="right" if is_late else "left",
            va="center",
            fontsize=7,
            color=_HAPPENED,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
