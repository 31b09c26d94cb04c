"""Scripts of the test bed (`tests/testbed/`) for `shardnet simulate`: what happens to processes, on paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from shardnet.described.estimates import Workload, estimate_problem
from shardnet.errors import DoesNotFit, UsageError
from shardnet.foreign.quoting import shortened
from shardnet.launch.files.config_files import DeviceClasses, load_data_file, load_model_config
from shardnet.launch.plan.inputs import Asked
from shardnet.launch.plan.options import PlannerOptions, ProblemOptions, RunOptions
from shardnet.plan import Plan
from shardnet.planner.problem import Problem
from shardnet.policy.rebalance import Replan, without_devices
from shardnet.simulator import Churn, Event, Load, Recovery, Script, absent_at_start, read_script
from shardnet.simulator.script import given_plan, paper_cluster, recovery_of

_SAID = {
    "in_flight": "--in-flight",
    "prompt_tokens": "--prompt-tokens",
    "new_tokens": "--new-tokens",
    "requests": "--requests",
    "prefill_chunk": "--prefill-chunk",
    "plan_file": "--plan",
    "event": "--event",
    "events": "--events",
    "standby": "--standby",
    "duration_s": "--duration-s",
    "stay_s": "--stay-s",
    "away_s": "--away-s",
    "goodbye": "--goodbye",
}
"""Options, besides all of `ProblemOptions`, whose values are in a script."""


class PaperRun(NamedTuple):
    """Everything that a simulated run needs."""

    asked: Asked
    start: Plan
    load: Load
    events: tuple[Event, ...]
    recovery: Recovery
    churn: Churn | None = None


def load_script(path: Path) -> Script:
    """The script of a file.

    Raises:
        BadConfiguration: no such file, or something impossible in it.
    """
    return read_script(load_data_file(path), shortened(path.name))


def script_problem(script: Script) -> Asked:
    """What a script describes, with estimated times.

    Raises:
        UsageError: its model or its machine is unknown, or its conversations are longer than the model's context.
    """
    load = script.load
    workload = Workload(
        script.dtype,
        context_tokens=load.prompt_tokens + load.new_tokens,
        sessions=load.in_flight,
        prefill_chunk=load.chunk_tokens,
    )
    estimate = estimate_problem(load_model_config(script.model), paper_cluster(script, DeviceClasses()), workload)
    title = f"{script.name}: {script.model}"
    problem = replace(estimate.problem, relays=False)  # processes send straight to each other
    return Asked(problem, title, estimate.notes, load_bytes_per_s=estimate.load_bytes_per_s)


def script_run(script: Script, asked: Asked, replan: Replan, rebalance: bool = True) -> PaperRun:
    """A script on paper.

    Raises:
        UsageError: the script gives away another number of units than the model has.
        DoesNotFit: nothing fits.
    """
    start = given_plan(script, asked.problem)
    if start is None:
        start = plan_without(absent_at_start(script.events), asked.problem, replan)
    return PaperRun(
        asked, start, script.load, script.paper_events, recovery_of(script, asked.load_bytes_per_s, replan, rebalance)
    )


def read_script_run(
    path: Path, options: ProblemOptions, how: PlannerOptions, wanted: RunOptions, replan: Replan
) -> PaperRun:
    """A script's file on paper, with the jitter that was asked for.

    Raises:
        UsageError: the script is none, or an option says again what is in it.
        DoesNotFit: nothing fits.
    """
    for flag in _said_twice(options, how, wanted):
        raise UsageError(f"{flag} does not go with --script, whose file says all of that; leave one of them out.")
    script = load_script(path)
    what = script_run(script, script_problem(script), replan, wanted.rebalance)
    return what._replace(load=replace(what.load, jitter=wanted.jitter, seed=wanted.seed))


def plan_without(absent: Sequence[str], problem: Problem, replan: Replan) -> Plan:
    """The plan at the start.

    Raises:
        DoesNotFit: nothing fits; says so where it is for want of those who join later.
    """
    if not absent:
        return replan(problem)
    try:
        return replan(without_devices(problem, absent))
    except DoesNotFit as error:
        raise DoesNotFit(f"Before {', '.join(absent)} joins, nothing fits. {error}") from error


def _said_twice(options: ProblemOptions, how: PlannerOptions, wanted: RunOptions) -> Iterator[str]:
    """The options that say what a script says."""
    usual = {**vars(PlannerOptions()), **vars(RunOptions())}
    given = {**vars(how), **vars(wanted)}
    yield from (f"--{name.replace('_', '-')}" for name, value in vars(options).items() if value is not None)
    yield from (flag for name, flag in _SAID.items() if given[name] != usual[name])
