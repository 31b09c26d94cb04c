"""What `shardnet bench` was asked to measure, each option declared once, with what may stand there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shardnet.cluster.load_options import LoadOptions
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.launch.values import DEFAULT_DEVICES, MODEL_HELP, read_split, require_model, require_threads
from shardnet.loader.sources import EMBEDDED_NAME
from shardnet.options import Whole

DECODE, PREFILL, SESSIONS = "decode", "prefill", "sessions"
KINDS = (DECODE, PREFILL, SESSIONS)
LEAST_TOKENS = 2
"""Of an answer whose speed can be told: the first one only says when it begins."""
_WHAT = "What is measured"
_WHERE = "Devices"
_OUTPUT = "Output"


def read_counts(option: str) -> Callable[[str | None], tuple[int, ...]]:
    """What makes numbers of "1,2,3"."""

    def read(text: str | None) -> tuple[int, ...]:
        try:
            counts = tuple(int(count) for count in text.split(",")) if text is not None else ()
        except ValueError:
            counts = (0,)
        if any(count < 1 for count in counts):
            raise BadRequest(f"{option} must be whole numbers from 1 on, such as 1,2,3, but is {quoted(text)}.")
        return tuple(dict.fromkeys(counts))

    return read


def read_splits(texts: list[str] | None) -> tuple[tuple[int, ...], ...]:
    """The splits of all `--split`."""
    return tuple(split for split in map(read_split, texts or ()) if split is not None)


def read_text(path: Path) -> str:
    """The text of `--text`.

    Raises:
        BadRequest: it cannot be read, is empty, or is no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"--text cannot be read: {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"--text must be a text in UTF-8, but {path} is none (byte {error.start}).") from error
    if not text.strip():
        raise BadRequest(f"--text must name a text, but {path} is empty.")
    return text


@dataclass(frozen=True)
class BenchOptions:
    """What is measured, where, how often, and where it goes."""

    model: Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP, rich_help_panel="The model")] = EMBEDDED_NAME
    what: Annotated[
        str,
        typer.Option("--what", help="Of decode, prefill and sessions.", metavar="KIND,...", rich_help_panel=_WHAT),
    ] = ",".join(KINDS)
    prompt: Annotated[
        tuple[int, ...],
        typer.Option(
            "--prompt",
            help="Tokens of context before an answer: decode and sessions.",
            metavar="N,N,...",
            rich_help_panel=_WHAT,
        ),
    ] = (16,)
    prefill: Annotated[
        tuple[int, ...],
        typer.Option("--prefill", help="Tokens of prompts: prefill.", metavar="N,N,...", rich_help_panel=_WHAT),
    ] = (512,)
    sessions: Annotated[
        tuple[int, ...],
        typer.Option("--sessions", help="Conversations at once: sessions.", metavar="N,N,...", rich_help_panel=_WHAT),
    ] = (8,)
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="Prompts are the beginning of this text.",
            show_default="random tokens",
            rich_help_panel=_WHAT,
        ),
    ] = None
    tokens: Annotated[
        int,
        Whole(LEAST_TOKENS),
        typer.Option("--tokens", "-n", help="Tokens of each answer.", rich_help_panel=_WHAT),
    ] = 64
    repetitions: Annotated[
        int, Whole(1), typer.Option("--repetitions", "-r", help="Turns that count.", rich_help_panel=_WHAT)
    ] = 5
    warm_up: Annotated[int, Whole(0), typer.Option("--warm-up", help="Turns before them.", rich_help_panel=_WHAT)] = 1
    devices: Annotated[
        tuple[int, ...],
        typer.Option(
            "--devices",
            help="Numbers of local devices, each a process.",
            metavar="N,N,...",
            show_default=str(DEFAULT_DEVICES),
            rich_help_panel=_WHERE,
        ),
    ] = ()
    splits: Annotated[
        tuple[tuple[int, ...], ...],
        typer.Option(
            "--split",
            help="Units of each device, by hand, such as 10,10,12. Several are measured one after the other.",
            metavar="N,N,...",
            rich_help_panel=_WHERE,
        ),
    ] = ()
    threads: Annotated[
        int | None,
        Whole(1),
        typer.Option(
            "--threads", help="Compute threads of each device.", show_default="cores / devices", rich_help_panel=_WHERE
        ),
    ] = None
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="ADDRESS",
            help="Measure the model of a cluster that shardnet up started (its state folder), over its own links.",
            rich_help_panel=_WHERE,
        ),
    ] = None
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write a line for each row there.", rich_help_panel=_OUTPUT),
    ] = None
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw it (.png, .svg, .pdf).", rich_help_panel=_OUTPUT),
    ] = None
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, nothing else.", rich_help_panel=_OUTPUT)
    ] = False

    def __post_init__(self) -> None:
        require_model("--model", self.model)
        require_threads(self.threads)
        if self.text is not None:
            read_text(self.text)
        for kind in self.kinds:
            if kind not in KINDS:
                raise BadRequest(f"--what must be of {', '.join(KINDS)}, but is {quoted(self.what)}.")
        if self.cluster is not None and (self.devices or self.splits or self.threads):
            raise BadRequest(
                "--devices, --split and --threads are for local devices; --cluster measures a model where it is. "
                "Leave one of them out."
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.what.split(",")))

    def check_load(self, load: LoadOptions) -> None:
        """
        Raises:
            BadRequest: something is said of how the model is loaded, but it is loaded.
        """
        if self.cluster is not None and load != LoadOptions(standby=load.standby, rebalance=load.rebalance):
            raise BadRequest(
                f"the cluster in {self.cluster} has loaded its model; options for loading one go with shardnet load."
            )
