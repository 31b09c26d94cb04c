"""The options of `shardnet plan` and `shardnet simulate`, each declared once, with what may stand there.

Loads no planner: see `run`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shardnet.cluster.load_options import quality_of
from shardnet.foreign.bounds import SECONDS, SESSIONS, TOKENS, Amount, Count
from shardnet.options import Made, OneOf
from shardnet.quantised.schemes import SCHEMES

_WHAT = "What is placed"
_HOW = "How"
_RUN = "The run"
_OUTPUT = "Output"
_MANY = Count(1, TOKENS.most)
A_DAY_S = 86_400.0

Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw it (.png, .svg, .pdf).", rich_help_panel=_OUTPUT)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.", rich_help_panel=_OUTPUT)]


@dataclass(frozen=True)
class ProblemOptions:
    """What is to be placed."""

    problem: Annotated[
        Path | None,
        typer.Option("--problem", metavar="FILE", help="A placement problem in JSON.", rich_help_panel=_WHAT),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A model folder, a .gguf file, a model file, or a name such as llama-2-7b.",
            rich_help_panel=_WHAT,
        ),
    ] = None
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", "-c", help="A cluster file, or a name such as home.", rich_help_panel=_WHAT),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float32, bfloat16 or float16.", show_default="float16", rich_help_panel=_WHAT),
    ] = None
    wire: Annotated[
        str | None,
        typer.Option(
            "--wire",
            help="What hidden states travel in between devices: a dtype, int8, fp8, or auto: what pays on each link.",
            show_default="dtype's",
            rich_help_panel=_WHAT,
        ),
    ] = None
    kv_dtype: Annotated[
        str | None,
        typer.Option(
            "--kv-dtype",
            help="What keys and values are kept in: auto, as --dtype says, or int8.",
            show_default="auto",
            rich_help_panel=_WHAT,
        ),
    ] = None
    weights: Annotated[
        str | None,
        OneOf(SCHEMES),
        typer.Option(
            "--weights",
            help="How weights are held, as generate has it: int4, int8, w8a8 ..., or a dtype. auto: as the model's "
            "file has them, or as --dtype says.",
            show_default="auto",
            rich_help_panel=_WHAT,
        ),
    ] = None
    quality: Annotated[
        str | None,
        Made(quality_of),
        typer.Option(
            "--quality",
            metavar="LOSS",
            help="Hold units in 16, 8 or 4 bits, whatever is fast, and lose so much at most, such as 1% more "
            "perplexity. What few bits cost a model is measured once, by shardnet quality.",
            rich_help_panel=_WHAT,
        ),
    ] = None
    bits: Annotated[
        int | None,
        typer.Option(
            "--bits", help="Of the linear layers' weights: 4, 8, 16, 32.", show_default="dtype's", rich_help_panel=_WHAT
        ),
    ] = None
    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            help="Tokens to keep KV memory for.",
            show_default="1024, or what is simulated if that is more",
            rich_help_panel=_WHAT,
        ),
        TOKENS,
    ] = None
    sessions: Annotated[
        int | None,
        typer.Option(
            "--sessions", help="Sessions to keep KV memory for.", show_default="in flight", rich_help_panel=_WHAT
        ),
        SESSIONS,
    ] = None
    source: Annotated[
        str | None, typer.Option("--source", help="Where the prompt is typed.", rich_help_panel=_WHAT)
    ] = None
    bandwidth: Annotated[
        list[str] | None,
        typer.Option(
            "--bandwidth", metavar="A:B=MBIT", help="Change links, such as source:cloud=10.", rich_help_panel=_WHAT
        ),
    ] = None
    pin_embedding: Annotated[
        bool | None,
        typer.Option("--pin-embedding/--free-embedding", help="The prompt stays on the source.", rich_help_panel=_WHAT),
    ] = None
    pin_head: Annotated[
        bool | None,
        typer.Option("--pin-head/--free-head", help="The answer stays on the source.", rich_help_panel=_WHAT),
    ] = None


@dataclass(frozen=True)
class PlannerOptions:
    """How to plan."""

    objective: Annotated[
        str, typer.Option("--objective", "-o", help="latency, throughput or energy.", rich_help_panel=_HOW)
    ] = "latency"
    in_flight: Annotated[
        int, typer.Option("--in-flight", "-f", help="Sessions under way at once.", rich_help_panel=_HOW), SESSIONS
    ] = 1
    method: Annotated[
        str,
        typer.Option(
            "--method", help="auto, exact, edgeshard, lingualinked, even, memory or solo.", rich_help_panel=_HOW
        ),
    ] = "auto"
    lap_limit: Annotated[
        float | None,
        typer.Option("--lap-limit", metavar="S", help="Longest lap, in seconds.", rich_help_panel=_HOW),
        Amount(SECONDS.most, above_zero=True),
    ] = None
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit",
            metavar="S",
            help="Longest search, in seconds.",
            show_default="60 for up to 16 devices, 8, or 45 for over 200",
            rich_help_panel=_HOW,
        ),
        Amount(A_DAY_S, above_zero=True),
    ] = None


@dataclass(frozen=True)
class PlanOutput:
    """What `shardnet plan` shows."""

    compare: Annotated[bool, typer.Option("--compare", help="All methods side by side.", rich_help_panel=_OUTPUT)] = (
        False
    )
    explain: Annotated[
        bool, typer.Option("--explain", help="What limits it, and what would help.", rich_help_panel=_OUTPUT)
    ] = False
    plot: Plot = None
    json: Json = False


@dataclass(frozen=True)
class RunOptions:
    """What `shardnet simulate` runs and shows."""

    script: Annotated[
        Path | None,
        typer.Option(
            "--script",
            metavar="FILE",
            help="A script of the test bed: cluster, model, prompts and events.",
            rich_help_panel=_WHAT,
        ),
    ] = None
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Run this plan (of plan --json).", rich_help_panel=_HOW),
    ] = None
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", help="Length of each prompt.", rich_help_panel=_RUN), TOKENS
    ] = 128
    new_tokens: Annotated[
        int, typer.Option("--new-tokens", "-n", help="Length of each answer.", rich_help_panel=_RUN), _MANY
    ] = 128
    requests: Annotated[
        int | None,
        typer.Option("--requests", help="Prompts in all.", show_default="in flight", rich_help_panel=_RUN),
        _MANY,
    ] = None
    prefill_chunk: Annotated[
        int,
        typer.Option("--prefill-chunk", help="Tokens of a prompt that travel together.", rich_help_panel=_RUN),
        _MANY,
    ] = 128
    jitter: Annotated[
        float, typer.Option("--jitter", help="Spread of all times (0.2: about 20%).", rich_help_panel=_RUN), Amount(2)
    ] = 0.0
    seed: Annotated[
        int,
        typer.Option("--seed", help="Of the jitter, and of who comes and goes.", rich_help_panel=_RUN),
        Count(-(2**63), 2**63),
    ] = 0
    event: Annotated[
        list[str] | None,
        typer.Option(
            "--event",
            metavar="EVENT",
            help="'t=5 slow NAME 3x', 't=5 cut A>B', 't=9 kill NAME', 'token=40 freeze NAME': see docs/planning.md.",
            rich_help_panel=_RUN,
        ),
    ] = None
    events: Annotated[
        Path | None,
        typer.Option("--events", metavar="FILE", help="Events in YAML or JSON.", rich_help_panel=_RUN),
    ] = None
    rebalance: Annotated[
        bool, typer.Option("--rebalance/--no-rebalance", help="Move layers while it runs.", rich_help_panel=_RUN)
    ] = True
    standby: Annotated[
        str,
        typer.Option("--standby", help="What is kept ready for a loss: none, cold, warm or hot.", rich_help_panel=_RUN),
    ] = "warm"
    duration_s: Annotated[
        float | None,
        typer.Option(
            "--duration-s",
            metavar="S",
            help="Each session asks again and again for so long, instead of --requests.",
            rich_help_panel=_RUN,
        ),
        Amount(A_DAY_S, above_zero=True),
    ] = None
    stay_s: Annotated[
        float | None,
        typer.Option(
            "--stay-s",
            metavar="S",
            help="Devices come and go: for so long each stays on average (with --duration-s).",
            rich_help_panel=_RUN,
        ),
        Amount(A_DAY_S, above_zero=True),
    ] = None
    away_s: Annotated[
        float | None,
        typer.Option(
            "--away-s",
            metavar="S",
            help="After so long it is back, on average.",
            show_default="half of --stay-s",
            rich_help_panel=_RUN,
        ),
        Amount(A_DAY_S, above_zero=True),
    ] = None
    goodbye: Annotated[
        float,
        typer.Option(
            "--goodbye", help="Share of those who go that say so before; the others are killed.", rich_help_panel=_RUN
        ),
        Amount(1.0),
    ] = 0.0
    plot: Plot = None
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Write a Chrome trace.", rich_help_panel=_OUTPUT),
    ] = None
    json: Json = False
