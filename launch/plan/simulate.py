"""What `shardnet simulate` does."""

from __future__ import annotations

import json as json_format
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
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
from shardnet.launch.plan.run import AGAIN_S, CHURN_S, ConfiguredPlanner
from shardnet.launch.plan.scripts import PaperRun, plan_without, read_script_run
from shardnet.plan import Plan, StagePlan
from shardnet.planner import plan_to_dict
from shardnet.planner.costs import evaluate
from shardnet.progress import silent
from shardnet.simulator import (
    Churn,
    Event,
    Load,
    Recovery,
    Result,
    absent_at_start,
    parse_event,
    read_events,
    simulate,
)

SEARCH_EVERY_S = 300.0
"""Of the run's own time: where devices come and go all the time, so often a better plan is looked for."""


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
    asked, start, load, events, recovery, churn = what
    if wanted.trace is not None and load.duration_s is not None:
        raise UsageError("--trace does not go with --duration-s, for which nothing is recorded; leave one of them out.")
    result = simulate(asked.problem, start, load, events, recovery, churn)
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
    asked = read_problem(options, how.in_flight, load.prompt_tokens + load.new_tokens, load.chunk_tokens)
    asked = planner.with_bits(asked, options, silent)
    events, churn = _read_events(wanted.event or (), wanted.events), _read_churn(wanted)
    absent = {device for device in absent_at_start(events) if device in asked.problem.index}
    if churn is None:
        plan, replan, search_every_s = planner.__call__, planner.__call__, 0.0
    else:
        absent |= churn.away_at_start(asked.problem)
        plan, replan = partial(planner.quickly, most_s=CHURN_S), partial(planner.quickly, most_s=AGAIN_S)
        search_every_s = SEARCH_EVERY_S
    if wanted.plan_file is not None:
        asked, start = _read_plan(wanted.plan_file, asked, how)
    else:
        start = plan_without(sorted(absent), asked.problem, plan)
    asked, start = asked.sent_as_pays(asked.shown(start), load.prefill_chunk, how.in_flight)
    recovery = Recovery(
        replan,
        load_bytes_per_s=dict(asked.load_bytes_per_s),
        standby=wanted.standby,
        rebalance=wanted.rebalance,
        search_every_s=search_every_s,
    )
    return PaperRun(asked, start, load, events, recovery, churn)


def _read_churn(wanted: RunOptions) -> Churn | None:
    """How devices come and go.

    Raises:
        UsageError: it is not said for how long, or how long they stay.
    """
    if wanted.stay_s is None:
        if wanted.away_s is not None or wanted.goodbye:
            raise UsageError("--away-s and --goodbye need --stay-s, which says how long devices stay.")
        return None
    if wanted.duration_s is None:
        raise UsageError("--stay-s needs --duration-s: for so long devices come and go.")
    away_s = wanted.stay_s / 2 if wanted.away_s is None else wanted.away_s
    return Churn(wanted.stay_s, away_s, wanted.goodbye, wanted.seed)


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
    if wanted.requests is not None and wanted.duration_s is not None:
        raise UsageError("--requests does not go with --duration-s; leave one of them out.")
    return Load(
        how.in_flight,
        wanted.requests,
        wanted.prompt_tokens,
        wanted.new_tokens,
        wanted.prefill_chunk,
        wanted.jitter,
        wanted.seed,
        wanted.duration_s,
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


def _read_plan(path: Path, asked: Asked, how: PlannerOptions) -> tuple[Asked, Plan]:
    """The stages of a file as `shardnet plan --json` writes it, and what they are placed for: in the bits it says."""
    data, place, problem = load_data_file(path), Place(shortened(str(path))), asked.problem
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
    if data.get("unit_weights"):
        bits = read_record(_Bits, {key: data[key] for key in _BITS if key in data}, place)
        asked = asked.in_schemes(bits.unit_weights, bits.predicted_loss)
    cost = evaluate(asked.problem, stages)
    method = shortened(str(data.get("method", path.name)), 60)
    rate = cost.rate(how.in_flight)
    return asked, Plan(stages, method=method, objective=how.objective, lap_s=cost.lap_s, rate_per_s=rate)


@dataclass(frozen=True)
class _Bits:
    """What a plan says of the bits of its units."""

    unit_weights: tuple[str, ...]
    predicted_loss: float | None = None


_BITS = tuple(field.name for field in fields(_Bits))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"Cannot write {path}: {error.strerror}. Name another file with --trace.") from error
