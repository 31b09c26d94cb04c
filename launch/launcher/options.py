"""The options of `shardnet-run`, each declared once: torchrun's names and defaults, and a few of its own.

What each of them does here stands in `docs/launcher.md`. As with torchrun, a variable of the environment is an option's
default: `PET_MAX_RESTARTS` that of `--max-restarts`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.process.ending import one_line
from shardnet.process.standard_streams import say

NODES, SCRIPT, RESTARTS, LOGS = "nodes and devices", "the script", "restarts and signals", "logs"


class Option(NamedTuple):
    """An option. One without a `metavar` is a flag."""

    group: str
    name: str
    metavar: str
    help: str
    default: str = ""
    short: str = ""

    @property
    def field(self) -> str:
        """What it is called in Python."""
        return self.name.strip("-").replace("-", "_")

    @property
    def spellings(self) -> list[str]:
        """With `-` and with `_`, and the short one."""
        underscored = f"--{self.field}"
        every = [self.short, self.name, underscored]
        return [each for each in dict.fromkeys(every) if each]


OPTIONS = (
    Option(NODES, "--standalone", "", "everything on this machine, for one run"),
    Option(NODES, "--nnodes", "MIN[:MAX]", "nodes: each a shardnet-run, of which one runs the script", "1:1"),
    Option(NODES, "--nproc-per-node", "N", "devices of this node; cpu or auto: one a core", "1"),
    Option(NODES, "--threads", "N", "compute threads of each device (default: cores / devices)"),
    Option(NODES, "--rdzv-endpoint", "HOST[:PORT]", "the door where all meet (default: one that only you can open)"),
    Option(NODES, "--rdzv-id", "ID", "the name of this run", "none"),
    Option(NODES, "--rdzv-backend", "NAME", "static or c10d, which are the same here", "static"),
    Option(NODES, "--rdzv-conf", "K=V,...", "join_timeout=SECONDS, is_host=true|false, invite=CODE"),
    Option(NODES, "--node-rank", "K", "which node this is; 0 opens the door and runs the script"),
    Option(NODES, "--master-addr", "HOST", "host of the door, where --rdzv-endpoint names none"),
    Option(NODES, "--master-port", "PORT", "port of it (default: 29500)"),
    Option(NODES, "--local-addr", "HOST", "what others call this machine: MASTER_ADDR with --every-node"),
    Option(SCRIPT, "--every-node", "", "run it as torchrun does: on each node, once for each of its devices"),
    Option(SCRIPT, "--module", "", "it is a module, as with python -m", short="-m"),
    Option(SCRIPT, "--no-python", "", "it is a program of its own, without Python before it"),
    Option(SCRIPT, "--run-path", "", "run it by runpy.run_path"),
    Option(SCRIPT, "--role", "ROLE", "what the script's processes are called in logs", "default"),
    Option(SCRIPT, "--virtual-local-rank", "", "LOCAL_RANK is 0 everywhere, and CUDA_VISIBLE_DEVICES one device"),
    Option(SCRIPT, "--start-method", "METHOD", "spawn, and no other", "spawn"),
    Option(SCRIPT, "--numa-binding", "MODE", "none: see docs/launcher.md"),
    Option(RESTARTS, "--max-restarts", "N", "how often the script, and each device, is started again", "0"),
    Option(RESTARTS, "--monitor-interval", "S", "how often it is looked whether the script lives", "0.1"),
    Option(
        RESTARTS,
        "--signals-to-handle",
        "NAMES",
        "passed on to the script, which then ends",
        "SIGTERM,SIGINT,SIGHUP,SIGQUIT",
    ),
    Option(RESTARTS, "--shutdown-timeout", "S", "how long the script may take to end, before SIGKILL", "30"),
    Option(RESTARTS, "--event-log-handler", "NAME", "null, and no other", "null"),
    Option(LOGS, "--log-dir", "DIR", "keep logs in DIR/ID_*/attempt_N/RANK, those of devices in DIR/ID_*/devices"),
    Option(LOGS, "--redirects", "WHAT", "0 nothing, 1 stdout, 2 stderr, 3 both go to logs; 0:1,1:3 by rank", "0", "-r"),
    Option(LOGS, "--tee", "WHAT", "the same, and to the terminal; of a device, all that it prints", "0", "-t"),
    Option(LOGS, "--local-ranks-filter", "RANKS", "show only these on the terminal, such as 0,2"),
    Option(LOGS, "--duplicate-stdout-filters", "WORDS", "of --tee: lines with one of them, once more in a file"),
    Option(LOGS, "--duplicate-stderr-filters", "WORDS", "the same of stderr"),
    Option(LOGS, "--logs-specs", "NAME", "none: see docs/launcher.md"),
    Option(LOGS, "--debug", "", "on an error of shardnet, print the whole traceback"),
)
BY_FIELD = {option.field: option for option in OPTIONS}


class Typed(NamedTuple):
    """A command line, as it was typed."""

    script: str
    arguments: tuple[str, ...]
    flags: frozenset[str]
    """The fields of those that are set."""
    texts: Mapping[str, str]
    """The fields of all that take a value; empty where there is none."""


def read_options(arguments: Sequence[str], environment: Mapping[str, str]) -> Typed:
    """What the command line says; ends with exit code 2 where it says something impossible.

    Raises:
        BadRequest: a variable of the environment does.
    """
    found = vars(_parser().parse_args(arguments))
    flags, texts = set(), {}
    for option in OPTIONS:
        said, variable = found[option.field], f"PET_{option.field.upper()}"
        if option.metavar:
            texts[option.field] = said if said is not None else environment.get(variable, option.default)
        elif said or _flag(variable, environment):
            flags.add(option.field)
    return Typed(found["script"], tuple(found["arguments"]), frozenset(flags), texts)


def _flag(variable: str, environment: Mapping[str, str]) -> bool:
    text = environment.get(variable, "0")
    if text not in ("0", "1"):
        raise BadRequest(f"{variable} in the environment must be 0 or 1, but is {quoted(text)}.")
    return text == "1"


class _Parser(argparse.ArgumentParser):
    """One sentence for a wrong option, as every command has it."""

    def error(self, message: str) -> NoReturn:
        say(f"shardnet-run: {one_line(message)}. See shardnet-run --help.")
        raise SystemExit(2)


class _Help(argparse.HelpFormatter):
    """Shows each option by one long name: that with `_` is known to whoever knows torchrun."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = [each for each in action.option_strings if "_" not in each]
        if not shown:
            return super()._format_action_invocation(action)
        return " ".join([", ".join(shown), *([str(action.metavar)] if action.metavar else [])])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="shardnet-run",
        usage="shardnet-run [OPTION ...] SCRIPT [ARGUMENT ...]",
        description="Run a script, in torchrun's manner, beside devices that shardnet.Cluster.connect() finds in it.",
        epilog="Example: shardnet-run --standalone --nproc-per-node 3 script.py. All options are torchrun's, but for "
        "--every-node, --threads and --debug; with _ in place of - they are the same.",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    for title in (NODES, SCRIPT, RESTARTS, LOGS):
        group = parser.add_argument_group(title)
        for option in OPTIONS:
            if option.group == title and option.metavar:
                group.add_argument(*option.spellings, dest=option.field, metavar=option.metavar, help=_help(option))
            elif option.group == title:
                group.add_argument(*option.spellings, dest=option.field, action="store_true", help=_help(option))
    parser.add_argument("script", help="the script, module or program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    return parser


def _help(option: Option) -> str:
    return f"{option.help} (default: {option.default})" if option.default else option.help
