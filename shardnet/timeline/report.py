"""Writes what a run looked like: a Chrome trace, TensorBoard event files, the plan as text and as a picture.

    folder/trace.json             open in https://ui.perfetto.dev or chrome://tracing
    folder/summary.json           the run's numbers
    folder/plan.md, plan.png      who held what, what each stage did with its time, and what happened
    folder/tensorboard/           `tensorboard --logdir folder/tensorboard`: one run per stage, and `run` for the whole

TensorBoard and matplotlib come with the extra `profile`; `require_extras` says so before a long run, not after it.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardnet.errors import UsageError
from shardnet.foreign.plain_files import user_path
from shardnet.foreign.quoting import quoted, shortened
from shardnet.plan import ModelProfile, Plan, StagePlan
from shardnet.timeline.history import History
from shardnet.timeline.spans import Span
from shardnet.timeline.timeline import Shares, Timeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

_log = logging.getLogger(__name__)
_NUM_BINS = 100
"""Points of every curve over time."""
_NO_STEPS = (
    "No step was recorded, so the trace shows none: the model must be loaded with record_spans, as up and load "
    "do with --record-spans."
)
_COLOURS = {"compute": "#2a7f62", "wire": "#e09f3e", "idle": "#d9d9d9"}


def require_extras() -> None:
    """Raise `UsageError` where TensorBoard or matplotlib is not installed."""
    missing = [name for name in ("tensorboard", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"A profile needs {' and '.join(missing)}: pip install 'shardnet[profile]'.")


def require_writable(folder: str | Path) -> Path:
    """Make the folder where there is none; raise `UsageError` where it cannot be written to."""
    if not isinstance(folder, (str, Path)) or not str(folder):
        raise UsageError(f"A profile goes to a folder, but this is {quoted(folder)}. Name one that you may write to.")
    path = user_path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".shardnet-write-test"
        probe.write_text("")
        probe.unlink()
    except (OSError, ValueError) as cause:  # ValueError: a null byte in the name
        reason, shown = getattr(cause, "strerror", None) or cause, shortened(str(path))
        raise UsageError(
            f"Cannot write a profile to {shown}: {reason}. Name a folder that you may write to."
        ) from cause
    return path


def write_profile(
    folder: str | Path,
    timeline: Timeline,
    plan: Plan,
    model_profile: ModelProfile,
    run_summary: Mapping[str, Any],
) -> Path:
    """Write all files of a profile and return the folder.

    Args:
        folder: made where there is none; files of an earlier profile in it are replaced.
        timeline: the spans of all stages on one clock.
        plan: what ran. Its stages' numbers are those of the timeline's.
        model_profile: sizes of the units that the plan names.
        run_summary: plain values, as `shardnet generate --json` prints them.

    Raises:
        UsageError: the folder cannot be written to, or the extra `profile` is not installed.
    """
    require_extras()
    path = require_writable(folder)
    shares = timeline.shares()
    (path / "trace.json").write_text(json.dumps(timeline.chrome_trace(plan)))
    (path / "summary.json").write_text(json.dumps(dict(run_summary), indent=2, default=str) + "\n")
    text = plan_text(plan, model_profile, shares, timeline.what_is_lost) + _happenings(timeline)
    (path / "plan.md").write_text(text)
    figure = plan_figure(plan, model_profile, shares)
    figure.savefig(path / "plan.png", dpi=120)
    _write_events(path / "tensorboard", timeline, shares, text, figure, run_summary)
    if timeline.what_is_lost:
        _log.warning("%s", timeline.what_is_lost)
    if timeline.bounds_ns == (0, 0):
        _log.warning("%s", _NO_STEPS)
    return path


def plan_text(plan: Plan, model_profile: ModelProfile, shares: Sequence[Shares] = (), note: str = "") -> str:
    """The plan as a Markdown table, with the shares of what each stage did where they are known, and a note on them."""
    lines = [
        f"# Plan {plan.version} of {model_profile.name} ({model_profile.dtype})",
        "",
        "| stage | device | units | weights | compute | wire | idle |",
        "|--:|---|---|--:|--:|--:|--:|",
    ]
    for index, stage in enumerate(plan.stages):
        share = _share_of(shares, index, stage.device)
        spent = [f"{share.compute:.0%}", f"{share.wire:.0%}", f"{share.idle:.0%}"] if share else ["", "", ""]
        size = _size(_weight_bytes(stage, model_profile))
        lines.append(f"| {index} | {stage.device} | {_units(stage)} | {size} | {' | '.join(spent)} |")
    if note:
        lines += ["", note]
    lines += [f"\nNot used: {left.device}: {left.why}" for left in plan.left_out]
    if plan.why:
        lines += ["", plan.why]
    return "\n".join(lines) + "\n"


def _happenings(timeline: Timeline) -> str:
    """What happened, as Markdown; empty where nothing did."""
    history = timeline.history_of_run
    if history is None or not history.events:
        return ""
    lines = [f"- after {event.at_s:.2f} s: {event.text}" for event in history.events]
    return "\n".join(["", "What happened since the model was loaded:", "", *lines]) + "\n"


def plan_figure(plan: Plan, model_profile: ModelProfile, shares: Sequence[Shares] = ()) -> Figure:
    """A picture of the ring: devices, units, weight bytes; beside it how each stage spent its time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_columns = 2 if shares else 1
    figure = Figure(figsize=(6.5 * num_columns, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{model_profile.name} ({model_profile.dtype}), plan {plan.version}")
    _draw_ring(figure.add_subplot(1, num_columns, 1), plan, model_profile)
    if shares:
        _draw_shares(figure.add_subplot(1, num_columns, 2), shares)
    return figure


def _draw_ring(axes: Any, plan: Plan, model_profile: ModelProfile) -> None:
    angles = [math.pi / 2 - 2 * math.pi * index / len(plan.stages) for index in range(len(plan.stages))]
    centres = [(math.cos(angle), math.sin(angle)) for angle in angles]
    heaviest = max(_weight_bytes(stage, model_profile) for stage in plan.stages) or 1
    boxes = []
    for index, (stage, (x, y)) in enumerate(zip(plan.stages, centres)):
        weight = _weight_bytes(stage, model_profile)
        text = f"stage {index}\n{stage.device}\n{_units(stage)}\n{_size(weight)}"
        box = {"boxstyle": "round,pad=0.5", "facecolor": (0.16, 0.5, 0.38, 0.1 + 0.35 * weight / heaviest)}
        boxes.append(axes.text(x, y, text, ha="center", va="center", fontsize=10, bbox=box, zorder=3))
    for index in range(len(boxes)) if len(boxes) > 1 else ():
        follower = (index + 1) % len(boxes)
        arrow = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=-0.2", "color": "#444444", "lw": 1.5}
        arrow |= {"patchA": boxes[index].get_bbox_patch(), "patchB": boxes[follower].get_bbox_patch()}
        axes.annotate("", xy=centres[follower], xytext=centres[index], arrowprops=arrow)
    axes.set(xlim=(-1.6, 1.6), ylim=(-1.5, 1.5), aspect="equal")
    axes.axis("off")


def _draw_shares(axes: Any, shares: Sequence[Shares]) -> None:
    names = [f"stage {share.stage}\n{share.device}" for share in shares]
    left = [0.0] * len(shares)
    for kind, colour in _COLOURS.items():
        widths = [getattr(share, kind) for share in shares]
        bars = axes.barh(names, widths, left=left, color=colour, label=kind)
        labels = [f"{width:.0%}" if width >= 0.06 else "" for width in widths]
        axes.bar_label(bars, labels=labels, label_type="center")
        left = [start + width for start, width in zip(left, widths)]
    axes.set(xlim=(0, 1), xlabel="share of the run")
    axes.invert_yaxis()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def _write_events(
    folder: Path,
    timeline: Timeline,
    shares: Sequence[Shares],
    text: str,
    figure: Figure,
    run_summary: Mapping[str, Any],
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for old in folder.glob("**/events.out.tfevents.*"):
        old.unlink()
    first, last = timeline.bounds_ns
    began_s = time.time() - (last - first) / 1e9
    edges = _edges(first, last)
    share_curves = timeline.shares_over_time(edges)
    for (stage, device), track in timeline.tracks.items():
        spans_of_bin = _bin(track, edges)
        with SummaryWriter(str(folder / f"stage-{stage}-{_file_name(device)}")) as writer:
            for step, (share, spans) in enumerate(zip(share_curves[stage, device], spans_of_bin)):
                wall_s = began_s + (edges[step + 1] - first) / 1e9
                for tag, value in _points(share, spans, (edges[step + 1] - edges[step]) / 1e9).items():
                    writer.add_scalar(tag, value, step, walltime=wall_s)
    with SummaryWriter(str(folder / "run")) as writer:
        writer.add_text("plan", text)
        writer.add_figure("plan", figure)
        for share in shares:
            for kind in _COLOURS:
                writer.add_scalar(f"share of the run/{kind}", getattr(share, kind), share.stage)
        for name, value in run_summary.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                writer.add_scalar(f"summary/{name}", value, 0)
        history = timeline.history_of_run
        if history is not None:
            run_edges = _edges(first, max((last, *history.heard_ns[-1:])))  # the last token, after the last step
            origin = first or history.loaded_ns  # without a step, too
            _write_history(writer, history, run_edges, lambda ns: began_s + (ns - origin) / 1e9)


def _write_history(
    writer: SummaryWriter, history: History, edges: Sequence[int], wall_s: Callable[[int], float]
) -> None:
    for step, rate in enumerate(history.tokens_per_s(edges)):
        version, num_devices = history.in_force(edges[step + 1])
        curves = {"answers/tokens_per_s": rate, "plan/version": version, "plan/devices": num_devices}
        for tag, value in curves.items():
            writer.add_scalar(tag, value, step, walltime=wall_s(edges[step + 1]))
    for step, event in enumerate(history.events):
        writer.add_text("events", event.text, step, walltime=wall_s(history.at_ns(event)))
    for step, change in enumerate(history.changes()):
        seconds = (change.end_ns - change.start_ns) / 1e9
        writer.add_scalar(f"{change.kind}/seconds", seconds, step, walltime=wall_s(change.end_ns))


def _edges(first: int, last: int) -> list[int]:
    """Where the bins of the curves begin and end, in ns; rising."""
    num_bins = min(_NUM_BINS, last - first)
    return [first + (last - first) * index // num_bins for index in range(num_bins + 1)] if num_bins > 0 else []


def _bin(track: Sequence[Span], edges: Sequence[int]) -> list[list[Span]]:
    """The spans that end in each bin."""
    bins: list[list[Span]] = [[] for _ in edges[1:]]
    for span in track:
        if bins and edges[0] < span.end_ns <= edges[-1]:
            bins[bisect_left(edges, span.end_ns) - 1].append(span)
    return bins


def _points(share: Shares, spans: Sequence[Span], bin_s: float) -> dict[str, float]:
    """One point of each of a stage's curves."""
    points = {f"share/{kind}": float(getattr(share, kind)) for kind in _COLOURS}
    steps = [span for span in spans if span.kind == "compute"]
    wires = [span for span in spans if span.kind == "wire"]
    points["rate/tokens_per_s"] = _sum(steps, "num_tokens") / bin_s
    points["rate/bytes_in_per_s"] = _sum(wires, "num_bytes") / bin_s
    if steps:
        points["step/seconds"] = _sum(steps, "seconds") / len(steps)
        points["step/sessions"] = _sum(steps, "num_sessions") / len(steps)
    if wires:
        points["wire/seconds"] = _sum(wires, "seconds") / len(wires)
    return points


def _sum(spans: Sequence[Span], field: str) -> float:
    return sum(getattr(span, field) for span in spans)


def _share_of(shares: Sequence[Shares], stage: int, device: str) -> Shares | None:
    return next((share for share in shares if (share.stage, share.device) == (stage, device)), None)


def _weight_bytes(stage: StagePlan, model_profile: ModelProfile) -> int:
    return sum(unit.weight_bytes for unit in model_profile.units[stage.first_unit : stage.last_unit + 1])


def _units(stage: StagePlan) -> str:
    return f"units {stage.first_unit}-{stage.last_unit}" if stage.num_units > 1 else f"unit {stage.first_unit}"


def _size(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.2f} GiB"


def _file_name(device: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in device)
