"""What `shardnet simulate` does."""

from __future__ import annotations

import json as json_format
from collections.abc import Mapping, Sequence
from pathlib import Path

from shardnet.described.schema import Place, read_record
from shardnet.errors import BadConfiguration, DoesNotFit, UsageError
from shardnet.foreign.quoting import counted, shortened
from shardnet.launch.console import plain_console
from shardnet.launch.files.config_files import load_data_file
from shardnet.launch.files.output_files import require_picture, require_writable
from shardnet.launch.plan import tables as plan_tables
from shardnet.launch.plan.inputs import Asked, read_problem
from shardnet.launch.plan.options import PlannerOptions, ProblemOptions, RunOptions
from shardnet.launch.plan.run import ConfiguredPlanner
from shardnet.launch.plan.scripts import PaperRun, plan_without, read_script_run
from shardnet.plan import Plan, StagePlan
from shardnet.planner import plan_to_dict
from shardnet.planner.costs import evaluate
from shardnet.planner.problem import Problem
from shardnet.simulator import Event, Load, Recovery, Result, absent_at_start, parse_event, read_events, simulate


def run(options: ProblemOptions, how: PlannerOptions, wanted: RunOptions) -> None:
    """Plan, simulate and print.

    Raises:
        UsageError: bad input.
        DoesNotFit: nothing fits, at the start or after a loss.
    """
    require_picture(wanted.plot)
    require_writable(wanted.trace, "--trace")
    planner = ConfiguredPlanner(how)
    if wanted.script is not None:
        what = read_script_run(wanted.script, options, how, wanted, planner)
    else:
        what = _read_run(options, how, wanted, planner)
    asked, start, load, events, recovery = what
    result = simulate(asked.problem, start, load, events, recovery)
    if wanted.trace is not None:
        _write(wanted.trace, json_format.dumps(result.to_trace()))
    if wanted.plot is not None:
        from shardnet.launch.plan.plots import draw_run

        draw_run(result, wanted.plot, f"{asked.title}: predicted run")
    _print_run(result, start, asked, json=wanted.json)
    if result.failed:
        raise DoesNotFit(f"The simulated run ended early at {result.duration_s:.3g} s: {result.failed.rstrip('.')}.")


def _read_run(options: ProblemOptions, how: PlannerOptions, wanted: RunOptions, planner: ConfiguredPlanner) -> PaperRun:
    load = _read_load(options, how, wanted)
    asked = read_problem(options, how.in_flight, load.prompt_tokens + load.new_tokens)
    events = _read_events(wanted.event or (), wanted.events)
    if wanted.plan_file is not None:
        start = _read_plan(wanted.plan_file, asked.problem, how)
    else:
        absent = [device for device in absent_at_start(events) if device in asked.problem.index]
        start = plan_without(absent, asked.problem, planner)
    recovery = Recovery(planner, load_bytes_per_s=dict(asked.load_bytes_per_s), rebalance=wanted.rebalance)
    return PaperRun(asked, start, load, events, recovery)


def _read_load(options: ProblemOptions, how: PlannerOptions, wanted: RunOptions) -> Load:
    """What is asked of the cluster.

    Raises:
        UsageError: it is more than the context that was asked for.
    """
    run_tokens = wanted.prompt_tokens + wanted.new_tokens
    if options.context is not None and run_tokens > options.context:
        raise UsageError(
            f"Prompt and answer have {run_tokens} tokens together, more than the {options.context} of --context. "
            "Ask for fewer, or leave --context out."
        )
    return Load(
        how.in_flight,
        wanted.requests,
        wanted.prompt_tokens,
        wanted.new_tokens,
        wanted.prefill_chunk,
        wanted.jitter,
        wanted.seed,
    )


def _print_run(result: Result, start: Plan, asked: Asked, *, json: bool) -> None:
    if json:
        print(json_format.dumps({**result.to_dict(), "plan": plan_to_dict(start)}, indent=2))
        return
    console = plain_console()
    plan_tables.print_run(console, result, start, asked.title)
    for note in asked.notes:
        console.print(note, style="dim")


def _read_events(texts: Sequence[str], path: Path | None) -> tuple[Event, ...]:
    listed = tuple(parse_event(text) for text in texts)
    return listed + (read_events(load_data_file(path), shortened(path.name)) if path is not None else ())


def _read_plan(path: Path, problem: Problem, how: PlannerOptions) -> Plan:
    """The stages of a file as `shardnet plan --json` writes it."""
    data, place = load_data_file(path), Place(shortened(str(path)))
    rows = data.get("stages") if isinstance(data, Mapping) else None
    if not isinstance(rows, list) or not rows:
        raise BadConfiguration(f"{place.file} is no plan: it needs a list 'stages', as shardnet plan --json prints it.")
    if len(rows) > problem.num_units:
        raise BadConfiguration(
            f"{place.file} has {counted(len(rows), 'stages')} for the {problem.num_units} units of the problem."
        )
    stages = tuple(
        read_record(StagePlan, row, place.at(data, "stages").item(index, row)) for index, row in enumerate(rows)
    )
    cost = evaluate(problem, stages)
    method = shortened(str(data.get("method", path.name)), 60)
    rate = cost.rate(how.in_flight)
    return Plan(stages, method=method, objective=how.objective, lap_s=cost.lap_s, rate_per_s=rate)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"Cannot write {path}: {error.strerror}. Name another file with --trace.") from error
