"""The options of `shardnet quality`, each declared once, with what may stand there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.launch.files.text_files import read_text_of
from shardnet.launch.generate.options import GenerateOptions
from shardnet.options import Whole
from shardnet.quantised.kv_names import AUTO, KV_DTYPES
from shardnet.quantised.schemes import AUTO as SCHEME_AUTO
from shardnet.quantised.schemes import INT4, INT8, SCHEMES, W8A8

COMPARED = ("bfloat16", INT8, W8A8, INT4)
"""Where none are named."""
AS_LOADED = "as loaded"
"""What the weights of a cluster are called that holds its model already."""
SHIPPED = "the_ferry_clock"
"""See configs/texts/README.md."""


@dataclass(frozen=True)
class TextOptions:
    """What is read."""

    text: Annotated[
        str | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="The text to be read (-: standard input).",
            show_default="a story that comes with shardnet",
        ),
    ] = None
    tokens: Annotated[
        int | None,
        Whole(2),
        typer.Option("--tokens", help="Read so many tokens of it at most.", show_default="all"),
    ] = None
    window: Annotated[
        int,
        Whole(2),
        typer.Option("--window", help="Tokens that are read together; each window begins in the middle of the last."),
    ] = 1024

    @property
    def title(self) -> str:
        """What the text is called."""
        if self.text is None:
            return SHIPPED.replace("_", " ")
        return "standard input" if self.text == "-" else Path(self.text).name

    def read(self) -> str:
        """The text.

        Raises:
            BadRequest: it cannot be read, is empty, or is no text.
        """
        if self.text is None:
            return resources.files("shardnet.configs_data").joinpath(f"texts/{SHIPPED}.txt").read_text("utf-8")
        text = read_text_of(self.text, "text file")
        if not text.strip():
            raise BadRequest(f"There is no text: {self.title} is empty.")
        return text


def read_schemes(weights: str | None) -> tuple[str, ...]:
    """The schemes of `--weights`; none where it was not given.

    Raises:
        BadRequest: one is none, or stands there twice.
    """
    return _read_some("--weights", weights, SCHEMES)


def read_kv_dtypes(kv_dtype: str | None) -> tuple[str, ...]:
    """The same of `--kv-dtype`."""
    return _read_some("--kv-dtype", kv_dtype, KV_DTYPES)


def _read_some(option: str, text: str | None, known: Sequence[str]) -> tuple[str, ...]:
    named = () if text is None else tuple(each.strip() for each in text.split(","))
    for each in named:
        if each not in known:
            raise BadRequest(f"{option} must be some of {', '.join(known)}, but one is {quoted(each)}.")
    if len(set(named)) < len(named):
        raise BadRequest(f"{option} names something twice; name each once.")
    return named


@dataclass(frozen=True)
class WeightOptions:
    """What is compared."""

    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", metavar="A,B,...", help=f"Some of {', '.join(SCHEMES)}.", show_default=",".join(COMPARED)
        ),
    ] = None
    """Read by `read_schemes`."""
    kv_dtype: Annotated[
        str | None,
        typer.Option(
            "--kv-dtype",
            metavar="A,B",
            help=f"What keys and values are kept in: some of {', '.join(KV_DTYPES)}.",
            show_default=AUTO,
        ),
    ] = None
    """Read by `read_kv_dtypes`."""
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="MODEL",
            help="Another checkpoint of the model, such as one of shardnet quantise. Several times for several.",
        ),
    ] = None


@dataclass(frozen=True)
class ResultOptions:
    """Where the result goes."""

    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw quality against memory and speed there (.png, .svg or .pdf)."
        ),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")] = False


@dataclass(frozen=True)
class QualityRequest:
    """All that was asked for, and read."""

    model: GenerateOptions
    """Which model, on which devices."""
    schemes: tuple[str, ...]
    """Empty where a cluster holds the model, with whatever weights."""
    title: str
    text: str = field(repr=False)
    tokens: int | None
    window: int
    kv_dtypes: tuple[str, ...] = (AUTO,)
    """Each with each of the schemes."""
    also: tuple[str, ...] = ()
    """Other checkpoints of the model."""

    def __post_init__(self) -> None:
        if self.model.load.quality is not None and SCHEME_AUTO not in self.schemes:
            raise BadRequest(
                "--quality chooses what weights auto are: name auto in --weights, too, such as --weights bfloat16,auto."
            )
