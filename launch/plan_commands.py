"""`shardnet plan` and `shardnet simulate`: who would hold what, and how that would run. No device is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .plan_options import PlannerOptions, PlanOutput, ProblemOptions, RunOptions

_WHAT = "What is placed"
_HOW = "How"
_RUN = "The run"
_OUTPUT = "Output"

ProblemFile = Annotated[
    Path | None,
    typer.Option("--problem", metavar="FILE", help="A placement problem in JSON.", rich_help_panel=_WHAT),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A model folder, a model file, or a name such as llama-2-7b.", rich_help_panel=_WHAT
    ),
]
ClusterFile = Annotated[
    str | None,
    typer.Option("--cluster", "-c", help="A cluster file, or a name such as home.", rich_help_panel=_WHAT),
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="float32, bfloat16 or float16.", show_default="float16", rich_help_panel=_WHAT),
]
Bits = Annotated[
    int | None,
    typer.Option(
        "--bits", help="Of the linear layers' weights: 4, 8, 16, 32.", show_default="dtype's", rich_help_panel=_WHAT
    ),
]
Context = Annotated[
    int | None,
    typer.Option("--context", help="Tokens to keep KV memory for.", show_default="1024", rich_help_panel=_WHAT),
]
Sessions = Annotated[
    int | None,
    typer.Option("--sessions", help="Sessions to keep KV memory for.", show_default="in flight", rich_help_panel=_WHAT),
]
Source = Annotated[str | None, typer.Option("--source", help="Where the prompt is typed.", rich_help_panel=_WHAT)]
Bandwidth = Annotated[
    list[str] | None,
    typer.Option(
        "--bandwidth", metavar="A:B=MBIT", help="Change links, such as source:cloud=10.", rich_help_panel=_WHAT
    ),
]
PinEmbedding = Annotated[
    bool | None,
    typer.Option("--pin-embedding/--free-embedding", help="The prompt stays on the source.", rich_help_panel=_WHAT),
]
PinHead = Annotated[
    bool | None,
    typer.Option("--pin-head/--free-head", help="The answer stays on the source.", rich_help_panel=_WHAT),
]
InFlight = Annotated[int, typer.Option("--in-flight", "-f", help="Sessions under way at once.", rich_help_panel=_HOW)]
Objective = Annotated[
    str, typer.Option("--objective", "-o", help="latency, throughput or energy.", rich_help_panel=_HOW)
]
Method = Annotated[
    str,
    typer.Option("--method", help="auto, exact, edgeshard, lingualinked, even, memory or solo.", rich_help_panel=_HOW),
]
LapLimit = Annotated[
    float | None, typer.Option("--lap-limit", metavar="S", help="Longest lap, in seconds.", rich_help_panel=_HOW)
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        "--time-limit",
        metavar="S",
        help="Longest search, in seconds.",
        show_default="8, or 45 for over 200 devices",
        rich_help_panel=_HOW,
    ),
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw it (.png, .svg, .pdf).", rich_help_panel=_OUTPUT)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.", rich_help_panel=_OUTPUT)]


def register(app: typer.Typer) -> None:
    """Add both commands to the command line."""
    app.command(name="plan")(plan)
    app.command(name="simulate")(simulate)


def plan(
    problem: ProblemFile = None,
    model: Model = None,
    cluster: ClusterFile = None,
    dtype: Dtype = None,
    bits: Bits = None,
    context: Context = None,
    sessions: Sessions = None,
    source: Source = None,
    bandwidth: Bandwidth = None,
    pin_embedding: PinEmbedding = None,
    pin_head: PinHead = None,
    objective: Objective = "latency",
    in_flight: InFlight = 1,
    method: Method = "auto",
    lap_limit: LapLimit = None,
    time_limit: TimeLimit = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="All methods side by side.", rich_help_panel=_OUTPUT)
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="What limits it, and what would help.", rich_help_panel=_OUTPUT)
    ] = False,
    plot: Plot = None,
    json: Json = False,
) -> None:
    """Say which devices would hold which layers, and how fast that would be.

    Example: shardnet plan --model llama-2-7b --bits 4 --cluster home --compare --explain
    """
    options = ProblemOptions(
        problem,
        model,
        cluster,
        dtype,
        bits,
        context,
        sessions,
        in_flight,
        source,
        bandwidth or (),
        pin_embedding,
        pin_head,
    )
    from .plan_run import run  # the planner and its solver are loaded by those who plan

    run(
        options,
        PlannerOptions(objective, method, in_flight, lap_limit, time_limit),
        PlanOutput(compare, explain, plot, json),
    )


def simulate(
    problem: ProblemFile = None,
    model: Model = None,
    cluster: ClusterFile = None,
    dtype: Dtype = None,
    bits: Bits = None,
    context: Context = None,
    sessions: Sessions = None,
    source: Source = None,
    bandwidth: Bandwidth = None,
    pin_embedding: PinEmbedding = None,
    pin_head: PinHead = None,
    objective: Objective = "latency",
    in_flight: InFlight = 1,
    method: Method = "auto",
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Run this plan (of plan --json).", rich_help_panel=_HOW),
    ] = None,
    time_limit: TimeLimit = None,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", help="Length of each prompt.", rich_help_panel=_RUN)
    ] = 128,
    new_tokens: Annotated[
        int, typer.Option("--new-tokens", "-n", help="Length of each answer.", rich_help_panel=_RUN)
    ] = 128,
    requests: Annotated[
        int | None,
        typer.Option("--requests", help="Prompts in all.", show_default="in flight", rich_help_panel=_RUN),
    ] = None,
    prefill_chunk: Annotated[
        int, typer.Option("--prefill-chunk", help="Tokens of a prompt that travel together.", rich_help_panel=_RUN)
    ] = 128,
    jitter: Annotated[
        float, typer.Option("--jitter", help="Spread of all times (0.2: about 20%).", rich_help_panel=_RUN)
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the jitter.", rich_help_panel=_RUN)] = 0,
    event: Annotated[
        list[str] | None,
        typer.Option(
            "--event",
            metavar="EVENT",
            help="'t=5 slow NAME 3x', 't=5 slow A>B 3x', 't=9 leave NAME', 't=20 join NAME'.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option("--events", metavar="FILE", help="Events in YAML or JSON.", rich_help_panel=_RUN),
    ] = None,
    rebalance: Annotated[
        bool, typer.Option("--rebalance/--no-rebalance", help="Move layers while it runs.", rich_help_panel=_RUN)
    ] = True,
    plot: Plot = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Write a Chrome trace.", rich_help_panel=_OUTPUT),
    ] = None,
    json: Json = False,
) -> None:
    """Predict a run: prompts and answers, devices that slow down, leave and join, and what is done about it.

    Example: shardnet simulate -m llama-2-7b --bits 4 -c home --event "t=8 slow laptop 4x"
    """
    options = ProblemOptions(
        problem,
        model,
        cluster,
        dtype,
        bits,
        context,
        sessions,
        in_flight,
        source,
        bandwidth or (),
        pin_embedding,
        pin_head,
    )
    from .simulate_run import run

    run(
        options,
        PlannerOptions(objective, method, in_flight, None, time_limit),
        RunOptions(
            plan_file=plan_file,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            requests=requests,
            prefill_chunk=prefill_chunk,
            jitter=jitter,
            seed=seed,
            event=event or (),
            events=events,
            rebalance=rebalance,
            plot=plot,
            trace=trace,
            json=json,
        ),
    )
