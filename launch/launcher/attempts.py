"""Runs the script on this node, again and again where it fails, as often as was asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from string import Template
from typing import TextIO

from shardnet.foreign.quoting import shortened
from shardnet.launch.launcher.asked import Asked
from shardnet.launch.launcher.environment import Place, variables
from shardnet.launch.launcher.failures import ERROR_FILE, Failure, failures_of, pass_on
from shardnet.launch.launcher.following import Followed, shown_meanwhile
from shardnet.launch.launcher.group import Command, Ended, ScriptGroup
from shardnet.launch.launcher.log_files import files_of_attempt
from shardnet.launch.launcher.programs import command_of
from shardnet.process.ending import one_line
from shardnet.process.standard_streams import say

PREFIX = "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"
"""A variable that says what stands before each line, as with torchrun."""


def run_script(asked: Asked, place: Place, folder: Path, environment: Mapping[str, str]) -> int:
    """Run it until it succeeds or may not be started again; returns the exit code, and says what failed.

    Args:
        folder: for its logs.
        environment: what each process has besides what is its own.
    """
    num_restarts = 0
    while failures := _attempt(asked, place, folder, environment, num_restarts):
        for failure in failures:
            say(f"shardnet-run: {shortened(asked.script)} {one_line(str(failure))}.")
        if num_restarts == asked.max_restarts:
            pass_on(failures[0], environment)
            return failures[0].exit_code
        num_restarts += 1
        say(f"shardnet-run: it is started again ({num_restarts} of {asked.max_restarts}).")
    return 0


def _attempt(
    asked: Asked, place: Place, folder: Path, environment: Mapping[str, str], num_restarts: int
) -> list[Failure]:
    """Run it once on all ranks of this node. Where one fails, the others are ended; those are no failures."""
    own_folder = folder / f"attempt_{num_restarts}"
    commands = []
    for local_rank, files in enumerate(files_of_attempt(asked.logs, own_folder, asked.num_scripts)):
        own = variables(asked, place, local_rank, num_restarts, environment)
        commands.append(
            Command(
                command_of(asked, local_rank, environment),
                {**environment, **own, ERROR_FILE: str(files.error)},
                place.first_rank + local_rank,
                local_rank,
                files,
            )
        )
    with ExitStack() as resources:
        followed = _followed(asked, commands, own_folder, resources)
        resources.enter_context(shown_meanwhile(followed))
        group = resources.enter_context(ScriptGroup(commands, asked.shutdown_s))
        return failures_of(_until_decided(group, len(commands), asked.look_every_s))


def _until_decided(group: ScriptGroup, how_many: int, look_every_s: float) -> list[Ended]:
    """Wait until one has failed or all have ended; returns those that have ended."""
    while True:
        ended = group.ended()
        if len(ended) == how_many or any(each.code != 0 for each in ended):
            return ended
        time.sleep(look_every_s)


def _followed(asked: Asked, commands: Sequence[Command], folder: Path, resources: ExitStack) -> list[Followed]:
    """The logs that are to be shown, and those whose lines are to be written once more."""
    logs = asked.logs
    filtered_out = _filter(logs.out_filters, folder / "filtered_stdout.log", resources)
    filtered_err = _filter(logs.err_filters, folder / "filtered_stderr.log", resources)
    found = []
    for command in commands:
        rank = command.local_rank
        if rank not in logs.ranks:
            continue
        before = _prefix(asked, command)
        if logs.shown[rank].out and command.files.out:
            found.append(Followed(command.files.out, _teller(before, sys.stdout, filtered_out)))
        if logs.shown[rank].err and command.files.err:
            found.append(Followed(command.files.err, _teller(before, sys.stderr, filtered_err)))
    return found


def _prefix(asked: Asked, command: Command) -> str:
    template = command.environment.get(PREFIX, "[${role_name}${local_rank}]:")
    return Template(template).safe_substitute(role_name=asked.role, rank=command.rank, local_rank=command.local_rank)


def _teller(before: str, stream: TextIO, also: Callable[[str], object]) -> Callable[[str], object]:
    def tell(line: str) -> None:
        also(f"{before}{line}")
        _write(stream, f"{before}{line}")

    return tell


def _filter(filters: tuple[str, ...], path: Path, resources: ExitStack) -> Callable[[str], object]:
    """Writes lines that have one of these words into a file; nothing where there are none."""
    if not filters:
        return lambda line: None
    file = path.open("w", encoding="utf-8", errors="replace")
    resources.callback(file.close)
    return partial(_write_if, file, filters)


def _write_if(file: TextIO, filters: tuple[str, ...], line: str) -> None:
    if any(each in line for each in filters):
        _write(file, line)


def _write(stream: TextIO, line: str) -> None:
    with suppress(OSError, ValueError):  # nobody reads any more; that is said when the launcher ends
        print(line, file=stream, flush=True)
