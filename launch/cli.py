"""The command `shardnet`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shardnet import __version__

from . import doctor_command, generate_command, plan_commands, profile_command
from .ending import orderly_exit

app = typer.Typer(
    help="One language model over several weak devices.\n\nStart with: shardnet demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"shardnet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="On an error, print the whole traceback.")] = False,
) -> None:
    """Options of every command. `main` reads --debug, wherever it stands; it is named here for --help."""


for module in (generate_command, profile_command, plan_commands, doctor_command):
    module.register(app)


def main() -> None:
    """Run the command line; see `ending` for the exit codes."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    with orderly_exit(debug=len(arguments) < len(sys.argv) - 1):
        app(arguments, prog_name="shardnet")


if __name__ == "__main__":
    main()
