"""The commands of `shardnet`, and what the command line makes of its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from shardnet.errors import BadRequest
from shardnet.launch.bench import command as bench_command
from shardnet.launch.cluster import commands as cluster_commands
from shardnet.launch.doctor import command as doctor_command
from shardnet.launch.generate import command as generate_command
from shardnet.launch.measure import command as profile_command
from shardnet.launch.plan import commands as plan_commands
from shardnet.launch.quality import command as quality_command
from shardnet.launch.quantise import command as quantise_command
from shardnet.launch.serve import command as serve_command
from shardnet.launch.task import command as task_command
from shardnet.launch.termux import command as wheel_command
from shardnet.release import __version__

NAME = "shardnet"
app = typer.Typer(
    help="One language model over several weak devices.\n\nStart with: shardnet demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)
MISUSE = typer.BadParameter.__base__
"""What typer raises for a wrong option. Its class has no public name: it carries a click of its own, or not."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"{NAME} {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="On an error, print the whole traceback.")] = False,
) -> None:
    """Options of every command. `cli` reads --debug, wherever it stands; it is named here for --help."""


for module in (
    generate_command,
    cluster_commands,
    serve_command,
    task_command,
    profile_command,
    bench_command,
    plan_commands,
    quality_command,
    quantise_command,
    doctor_command,
    wheel_command,
):
    module.register(app)


def perform(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code.

    Other than typer's own `app()`, it leaves signals, broken pipes and errors to `ending`.

    Raises:
        BadRequest: there is no such command or option.
    """
    command = typer.main.get_command(app)
    try:
        with command.make_context(NAME, list(arguments) or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:
        assert MISUSE is not None
        if isinstance(error, MISUSE):
            raise BadRequest(_said(error)) from error
        raise
    return 0


def _said(error: Exception) -> str:
    """Typer's words as one sentence, and where to read on."""
    what = str(error.format_message()).strip().rstrip(".")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else NAME
    return f"{what}. See {path} --help."
