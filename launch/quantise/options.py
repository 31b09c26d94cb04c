"""The options of `shardnet quantise`, each declared once, with what may stand there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shardnet.errors import BadRequest
from shardnet.launch.files.text_files import read_text_of
from shardnet.launch.values import MODEL_HELP, require_model
from shardnet.options import OneOf
from shardnet.quantised.schemes import FOUR_BITS, INT4


@dataclass(frozen=True)
class QuantiseOptions:
    """What is made of what."""

    model: Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="A new folder; or that of a run that was cut off, to go on."),
    ]
    weights: Annotated[str, OneOf(FOUR_BITS), typer.Option("--weights", help=f"One of {', '.join(FOUR_BITS)}.")] = INT4
    text: Annotated[
        str | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="Some thousand tokens of what the model is used for (-: standard input).",
            show_default="a text that comes with shardnet",
        ),
    ] = None

    def __post_init__(self) -> None:
        require_model("--model", self.model)

    def read_text(self) -> str | None:
        """The text; None where none was named.

        Raises:
            BadRequest: it cannot be read, is empty, or is no text.
        """
        if self.text is None:
            return None
        text = read_text_of(self.text, "text file")
        if not text.strip():
            raise BadRequest("The text of --text is empty. Give some thousand tokens of what the model is used for.")
        return text
