"""The options of `shardnet task` beside those of the task: which texts, and where results go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.launch.generate.options import GenerateOptions
from shardnet.tasks.names import TASKS
from shardnet.tasks.options import TaskOptions, labels_of

_TEXTS = "Texts and results"
JSONL, CSV, LINES = ".jsonl", ".csv", ".txt"
STREAM = "-"


@dataclass(frozen=True)
class TaskName:
    """What is to be done."""

    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help=f"One of {', '.join(TASKS)}.", show_default=False),
    ]
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="Files, each a text (-: standard input).", show_default=False),
    ] = None


@dataclass(frozen=True)
class TextsOptions:
    """Which texts, and where results go."""

    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", help="A text. Several times for several.", rich_help_panel=_TEXTS),
    ] = None
    input: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Many texts: .jsonl, .csv, or .txt with one a line (-: standard input, JSONL or lines).",
            rich_help_panel=_TEXTS,
        ),
    ] = None
    column: Annotated[
        str, typer.Option("--column", help="Where the text stands in a row of --input.", rich_help_panel=_TEXTS)
    ] = "text"
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Rows with their results: .jsonl, where a run that was cut off goes on, or .csv (-: JSONL to standard "
            "output).",
            rich_help_panel=_TEXTS,
        ),
    ] = None
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, nothing else.", rich_help_panel=_TEXTS)
    ] = False

    def __post_init__(self) -> None:
        if self.json and self.output is not None:
            raise BadRequest("--json prints results, --output writes them; leave one of them out.")
        if self.output not in (None, STREAM) and Path(str(self.output)).suffix.lower() not in (JSONL, CSV):
            raise BadRequest(f"--output must end with .jsonl or .csv, but is {quoted(self.output)}.")
        known = (JSONL, CSV, LINES)
        if self.input not in (None, STREAM) and Path(str(self.input)).suffix.lower() not in known:
            raise BadRequest(
                f"--input must end with .jsonl, .csv or .txt, but is {quoted(self.input)}. A file that is one text is "
                "named without --input."
            )

    def check_sources(self, files: list[str]) -> None:
        """
        Raises:
            BadRequest: texts come from nowhere, or from several places.
        """
        given = [bool(files), bool(self.text), self.input is not None]
        if sum(given) != 1:
            raise BadRequest("Texts come from files, --text or --input: give one of these.")


@dataclass(frozen=True)
class TaskRequest:
    """All that was asked for."""

    task: str
    model: GenerateOptions
    """Which model, on which devices."""
    asked: TaskOptions
    texts: TextsOptions
    files: tuple[str, ...]


def read_labels(labels: str | None) -> tuple[str, ...] | None:
    """Those of `--candidate-labels`."""
    return None if labels is None else labels_of(labels)


def read_stop(stop: list[str] | None) -> tuple[str, ...] | None:
    """The texts of `--stop`."""
    return tuple(stop) if stop else None
