"""Plans and simulated runs as tables for a terminal. Everything shown is predicted and says so.

Names are others' words: the console is one of `console.plain_console`, which takes no markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shardnet.foreign.quoting import counted
from shardnet.plan import LeftOut, Plan, StagePlan, in_runs
from shardnet.planner.costs import Hop, evaluate, gigabytes
from shardnet.planner.problem import Problem
from shardnet.simulator import Repairs, Result
from shardnet.simulator.what_if import Answer

MAX_LEFT_OUT = 6
WORDS = {
    "detection": "detection: until a loss is known",
    "waiting": "waiting: until a silent device is back that nobody has room to replace",
    "load": "load: until what others take over is loaded",
    "moving": "moving: until what they took over is computed anew, or copied",
}
MAX_BUSY = 16


def print_plan(
    console: Console, problem: Problem, plan: Plan, title: str, notes: Sequence[str], in_flight: int
) -> None:
    """One plan: its stages, what it is predicted to reach, and who is left out."""
    cost = evaluate(problem, plan.stages)
    table = Table(
        title=f"{title}: plan by {plan.method} for {plan.objective}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    lefts = ["device", "units", *(["bits"] if plan.unit_weights else [])]
    table.add_column("stage", justify="right")
    for name in lefts:
        table.add_column(name)
    for name in ("weights", "KV cache", "ms/token", "then on the way, ms"):
        table.add_column(name, justify="right")
    hops = list(cost.hops)
    for index, stage in enumerate(plan.stages):
        following = plan.stages[(index + 1) % len(plan.stages)]
        way = _way(hops.pop(0)) if following.device != stage.device else ""
        units, *amounts = _stage_cells(problem, stage)
        held = plan.unit_weights[stage.first_unit : stage.last_unit + 1]
        bits = [in_runs(held, stage.first_unit)] if held else []
        table.add_row(str(index), stage.device, units, *bits, *amounts, way)
    console.print(table)
    console.print(Text("predicted: ", style="bold").append(summary(plan, in_flight), style="not bold"))
    if plan.why:
        console.print(plan.why)
    for line in left_out_lines(plan.left_out):
        console.print(line)
    for note in notes:
        console.print(note, style="dim")


def _stage_cells(problem: Problem, stage: StagePlan) -> tuple[str, str, str, str]:
    """Units, weights, KV cache and time of a stage."""
    units = problem.units[stage.first_unit : stage.last_unit + 1]
    kv_bytes = sum(unit.kv_bytes_per_token for unit in units) * problem.context_tokens * problem.sessions
    seconds = problem.devices[problem.index[stage.device]].unit_seconds[stage.first_unit : stage.last_unit + 1]
    return (
        f"{stage.first_unit}-{stage.last_unit}" if stage.num_units > 1 else str(stage.first_unit),
        gigabytes(sum(unit.weight_bytes for unit in units)),
        gigabytes(kv_bytes),
        f"{sum(seconds) * 1e3:.4g}",
    )


def _way(hop: Hop) -> str:
    """How long a hop takes, in ms, and by way of whom."""
    over = ", ".join(link.target for link in hop.links[:-1])
    return f"{hop.seconds * 1e3:.3g}" + (f" over {over}" if over else "")


def summary(plan: Plan, in_flight: int) -> str:
    """One line of predictions."""
    parts = [f"{_ms(plan.lap_s)} a token", f"{_number(plan.rate_per_s)} tokens/s"]
    parts[1] += f" with {in_flight} in flight"
    if plan.simulated_rate_per_s is not None and plan.simulated_rate_per_s != plan.rate_per_s:
        parts[1] += f" ({_number(plan.simulated_rate_per_s)} simulated)"
    if plan.energy_j is not None:
        parts.append(f"{plan.energy_j:.3g} J a token")
    if plan.optimal and not plan.gap:
        parts.append("proven optimal")
    elif plan.gap is not None:
        parts.append(f"proven within {_gap(plan.gap)} of the best")
    return ", ".join(parts) + "."


def left_out_lines(left_out: Sequence[LeftOut]) -> list[str]:
    """Who is left out and why; of very many alike only their number."""
    by_why: dict[str, list[str]] = {}
    for each in left_out:
        by_why.setdefault(each.why, []).append(each.device)
    lines = []
    for why, devices in list(by_why.items())[:MAX_LEFT_OUT]:
        lines.append(f"Left out: {_names(devices)}: {why}")
    rest = list(by_why.values())[MAX_LEFT_OUT:]
    if rest:
        lines.append(f"Left out: {sum(map(len, rest))} more devices for like reasons (--json lists them).")
    return lines


def print_comparison(
    console: Console, plans: Mapping[str, Plan | str], title: str, objective: str, in_flight: int
) -> None:
    """All methods side by side; a text instead of a plan says why there is none."""
    table = Table(
        title=f"{title}: predicted, for {objective}, {in_flight} in flight",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method", no_wrap=True)
    for name in ("ms/token", "tokens/s", "simulated", "busiest", "J/token"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("units by device")
    table.add_column("proof", no_wrap=True)
    for method, plan in plans.items():
        if isinstance(plan, str):
            table.add_row(method, "-", "-", "-", "-", "-", plan, "")
            continue
        units = ", ".join(f"{stage.device} {stage.num_units}" for stage in plan.stages[:6])
        more = f" ... {len(plan.stages)} stages" if len(plan.stages) > 6 else ""
        proof = "optimal" if plan.optimal and not plan.gap else "" if plan.gap is None else f"{_gap(plan.gap)} gap"
        table.add_row(
            method,
            _ms(plan.lap_s, unit=""),
            _number(plan.rate_per_s),
            _number(plan.simulated_rate_per_s),
            _ms(plan.bottleneck_s, unit=""),
            _number(plan.energy_j),
            units + more,
            proof,
        )
    console.print(table)


def print_explanation(console: Console, sentences: Sequence[str], answers: Sequence[Answer], objective: str) -> None:
    """What limits the plan, and what changes would give."""
    console.print("\nWhat limits it", style="bold")
    for sentence in sentences:
        console.print(f"- {sentence}")
    table = Table(
        title=f"What would help (planned again, predicted, for {objective})",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("with")
    for name in ("ms/token", "tokens/s", "gain"):
        table.add_column(name, justify="right")
    table.add_column("devices")
    for answer in sorted(answers, key=lambda answer: -answer.gain):
        if answer.plan is None:
            table.add_row(answer.change, "-", "-", "-", "does not fit")
            continue
        table.add_row(
            answer.change,
            _ms(answer.plan.lap_s, unit=""),
            _number(answer.plan.rate_per_s),
            f"{answer.gain:+.0%}" if abs(answer.gain) >= 0.005 else "none",
            _names(answer.plan.devices),
        )
    console.print(table)


def print_run(console: Console, result: Result, plan: Plan, title: str) -> None:
    """A simulated run: its numbers, its phases, and what was busy."""
    told, calm = result.to_dict(), not result.happenings
    formula_lap = f"{_ms(plan.lap_s)} by the formula for one alone" if calm else ""
    formula_rate = f"{_number(plan.rate_per_s)} by the formula" if calm else ""
    table = Table(
        title=f"{title}: predicted run", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_header=False
    )
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    rows = [
        ("time to first token", _seconds(result.time_to_first_token_s), "mean of all prompts"),
        ("a token, all decoding", _ms(result.lap_s), formula_lap),
        ("  half / 95% of the tokens", f"{_ms(told['lap_p50_s'])} / {_ms(told['lap_p95_s'])}", ""),
        ("rate, all decoding", f"{_number(result.rate_per_s)} tokens/s", formula_rate),
        ("rate, prompts included", f"{_number(result.tokens_per_s)} tokens/s", counted(result.num_tokens, "tokens")),
        (
            "the whole run",
            _seconds(result.duration_s),
            f"{len(result.requests)} answer" + ("s" if len(result.requests) != 1 else ""),
        ),
    ]
    for row in rows:
        if "- " not in row[1] and row[1] != "-":
            table.add_row(*row)
    console.print(table)
    if result.happenings:
        _print_phases(console, result)
        _print_repairs(console, result.repairs)
    _print_busy(console, result)
    if result.failed:
        console.print(Text("The run ends early: ", style="bold").append(f"{result.failed}.", style="not bold"))


def _print_phases(console: Console, result: Result) -> None:
    table = Table(title="What happened", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("from", "to", "tokens/s", "ms/token"):
        table.add_column(name, justify="right")
    table.add_column("began with")
    for phase in result.phases():
        table.add_row(
            f"{phase.start_s:.2f} s",
            f"{phase.end_s:.2f} s",
            _number(phase.tokens_per_s),
            _ms(phase.mean_lap_s, unit=""),
            phase.opening,
        )
    console.print(table)


def _print_repairs(console: Console, repairs: Repairs) -> None:
    """The share of the answers' time that repairs cost, and what it went to."""
    if repairs.share == 0:
        return
    told = f"{counted(repairs.num_repairs, 'repairs')}, {counted(repairs.num_delayed, 'answers')} delayed"
    table = Table(
        title=f"Lost to repairs: {repairs.share:.2%} of the answers' time ({told})",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("for")
    table.add_column("s, all answers", justify="right")
    table.add_column("share", justify="right")
    for cause, lost_s in repairs.lost_s.items():
        table.add_row(WORDS[cause], f"{lost_s:.3g}", f"{lost_s / repairs.answers_s:.2%}")
    console.print(table)


def _print_busy(console: Console, result: Result) -> None:
    table = Table(title="Busy", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("device or link")
    table.add_column("s", justify="right")
    table.add_column("share", justify="right")
    rows = sorted(result.busy_s.items(), key=lambda item: -item[1])
    for resource, busy_s in rows[:MAX_BUSY]:
        share = busy_s / result.duration_s if result.duration_s else 0.0
        table.add_row(" to ".join(resource), f"{busy_s:.3g}", f"{share:.0%}")
    console.print(table)
    if len(rows) > MAX_BUSY:
        console.print(f"and {len(rows) - MAX_BUSY} less busy ones (--json lists them)", style="dim")


def _names(devices: Sequence[str]) -> str:
    return ", ".join(devices[:3]) + (f" and {len(devices) - 3} more" if len(devices) > 3 else "")


def _gap(gap: float) -> str:
    return f"{gap:.1%}" if gap >= 0.0005 else "less than 0.1%"


def _ms(seconds: float | None, unit: str = " ms") -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.4g}{unit}"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3g} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
