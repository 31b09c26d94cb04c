"""`shardnet generate` and `shardnet demo`: a model over several devices answers prompts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from shardnet.launch.files.model_configs import EMBEDDED_MODEL
from shardnet.launch.generate.glance import read_tokenizer_early, refuse_at_once
from shardnet.launch.generate.options import GenerateOptions, read_prompts, read_split
from shardnet.process.imports import importing
from shardnet.process.surroundings import require_address_space
from shardnet.progress import progress_bars

DEMO_PROMPT = "Why is the sky blue? Explain it to a child in a few sentences."

_MODEL = "The model"
_DEVICES = "Devices"
_SAMPLING = "How tokens are chosen"
_OUTPUT = "Output"

MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", "-n", help="Tokens to generate at the most.")]
Devices = Annotated[
    int | None,
    typer.Option(
        "--devices", help="Local devices to start, each a process.", show_default="3", rich_help_panel=_DEVICES
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", help="Compute threads of each device.", show_default="cores / devices", rich_help_panel=_DEVICES
    ),
]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.", rich_help_panel=_MODEL)]
Profile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="DIR",
        help="Write a trace of all devices, TensorBoard events and the plan there.",
        rich_help_panel=_OUTPUT,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.", rich_help_panel=_OUTPUT)]


def register(app: typer.Typer) -> None:
    """Add both commands to the command line."""
    app.command(name="demo")(demo)
    app.command(name="generate")(generate)


def demo(
    prompt: Annotated[str, typer.Option("--prompt", help="What to ask.")] = DEMO_PROMPT,
    max_new_tokens: MaxNewTokens = 96,
    devices: Devices = None,
    threads: Threads = None,
    dtype: Dtype = "bfloat16",
    profile: Profile = None,
    json: Json = False,
) -> None:
    """See it work: a small chat model over three local devices answers a question.

    Needs no network and no files: the model came with the installation.
    """
    _run(
        GenerateOptions(
            model=EMBEDDED_MODEL,
            prompts=read_prompts([prompt], None),
            chat=True,
            devices=devices,
            threads=threads,
            dtype=dtype,
            max_new_tokens=max_new_tokens,
            profile=profile,
            json=json,
            stats=True,
        )
    )


def generate(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help=f"A folder in Hugging Face layout, a .gguf file, a hub id, or {EMBEDDED_MODEL} (installed already).",
            rich_help_panel=_MODEL,
        ),
    ],
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="The prompt. Several run at the same time.")
    ] = None,
    prompt_file: Annotated[
        str | None,
        typer.Option("--prompt-file", metavar="FILE", help="Read the prompt from a file (-: standard input)."),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask as a user: apply the model's chat template.")] = False,
    max_new_tokens: MaxNewTokens = 64,
    devices: Devices = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="HOST:PORT",
            help="Use the devices of a running cluster (shardnet-run says where).",
            rich_help_panel=_DEVICES,
        ),
    ] = None,
    threads: Threads = None,
    dtype: Dtype = "bfloat16",
    placement: Annotated[
        str,
        typer.Option(
            "--placement",
            help="spread: all devices. auto: the best plan, which leaves out what does not help. Or a method of "
            "shardnet plan.",
            rich_help_panel=_DEVICES,
        ),
    ] = "spread",
    objective: Annotated[
        str, typer.Option("--objective", help="Of auto: latency, throughput or energy.", rich_help_panel=_DEVICES)
    ] = "latency",
    in_flight: Annotated[
        int, typer.Option("--in-flight", help="Of auto: sessions under way at once.", rich_help_panel=_DEVICES)
    ] = 1,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="N,N,...",
            help="Units of each device, by hand, such as 10,10,12.",
            rich_help_panel=_DEVICES,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", help="Tokens that prompt and answer may have together.", rich_help_panel=_MODEL),
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0: always the likeliest token.", rich_help_panel=_SAMPLING)
    ] = 0.0,
    top_k: Annotated[int, typer.Option("--top-k", help="0: all tokens.", rich_help_panel=_SAMPLING)] = 0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Likeliest tokens up to this probability.", rich_help_panel=_SAMPLING)
    ] = 1.0,
    min_p: Annotated[
        float,
        typer.Option("--min-p", help="Tokens at least so likely, the likeliest being 1.", rich_help_panel=_SAMPLING),
    ] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help="1: none.", rich_help_panel=_SAMPLING)
    ] = 1.0,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            help="The same seed, the same random numbers; with --dtype float32, the same text.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="End before this text. Can be given several times.")
    ] = None,
    profile: Profile = None,
    stats: Annotated[
        bool, typer.Option("--stats", "-v", help="Show the plan, speeds and memory too.", rich_help_panel=_OUTPUT)
    ] = False,
    json: Json = False,
) -> None:
    """Generate text with a model that is split over several devices.

    Example: shardnet generate --model smollm2-135m-instruct --chat --prompt "What is a shard?" --devices 2 --stats
    """
    _run(
        GenerateOptions(
            model=model,
            prompts=read_prompts(prompt or [], prompt_file),
            chat=chat,
            devices=devices,
            cluster=cluster,
            is_launched=cluster is None and devices is None and bool(os.environ.get("SHARDNET_ENDPOINT")),
            threads=threads,
            dtype=dtype,
            placement=placement,
            objective=objective,
            in_flight=in_flight,
            split=read_split(split),
            context_tokens=context,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=tuple(stop or []),
            profile=profile,
            json=json,
            stats=stats,
        )
    )


def _run(options: GenerateOptions) -> None:
    refuse_at_once(options)
    with progress_bars(enabled=False if options.json else None) as progress:
        progress("loading PyTorch", 0, 1)
        require_address_space()
        with importing():
            options.check_environment()
            tokenizer = read_tokenizer_early(options)
            from shardnet.launch.generate.run import (
                run,  # what takes seconds: only once the request is known to make sense
            )

        progress("loading PyTorch", 1, 1)
    run(options, tokenizer)
