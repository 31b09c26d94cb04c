"""`shardnet plan` and `shardnet simulate`: who would hold what, and how that would run. No device is needed."""

from __future__ import annotations

import typer

from shardnet.launch.flags import flattened
from shardnet.launch.plan.options import PlannerOptions, PlanOutput, ProblemOptions, RunOptions


def register(app: typer.Typer) -> None:
    """Add both commands to the command line."""
    app.command(name="plan")(flattened(plan))
    app.command(name="simulate")(flattened(simulate))


def plan(what: ProblemOptions, how: PlannerOptions, output: PlanOutput) -> None:
    """Say which devices would hold which layers, and how fast that would be.

    Example: shardnet plan --model llama-2-7b --bits 4 --cluster home --compare --explain
    """
    from shardnet.launch.plan.run import run  # the planner and its solver are loaded by those who plan

    run(what, how, output)


def simulate(what: ProblemOptions, how: PlannerOptions, wanted: RunOptions) -> None:
    """Predict a run: prompts and answers, devices that slow down, freeze, die and join, and what is done about it.

    Example: shardnet simulate -m llama-2-7b --bits 4 -c home --event "t=8 slow laptop 4x"
    """
    from shardnet.launch.plan.simulate import run

    run(what, how, wanted)
