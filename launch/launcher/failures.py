"""What is said of scripts that failed, which of them was the cause, and the exit code that comes of it.

A script that is decorated with `record` (torch.distributed.elastic.multiprocessing.errors) leaves a file that says why.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from shardnet.errors import BadConfiguration
from shardnet.foreign.plain_files import read_json
from shardnet.launch.launcher.group import Ended
from shardnet.process.signals import signal_name

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
MOST_ERROR_BYTES = 2**20


class Failure(NamedTuple):
    """A process that ended with another exit code than 0."""

    ended: Ended
    why: str
    """The script's own words; empty where it left none."""
    at_s: float
    """When, since 1970, as it has noted it; the end of time where it has not."""

    @property
    def exit_code(self) -> int:
        """What a shell would make of it."""
        code = self.ended.code
        return 128 - code if code < 0 else code

    def __str__(self) -> str:
        """In words that follow the script's name."""
        command, code = self.ended.command, self.ended.code
        how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        why = f": {self.why}" if self.why else ""
        return f"of rank {command.rank} (local rank {command.local_rank}, pid {self.ended.pid}) {how}{why}"


def failures_of(ended: Sequence[Ended]) -> list[Failure]:
    """Those that failed, the cause first: who was the first to note an error, or else to be seen."""
    failed = [_failure(each) for each in ended if each.code != 0]
    return sorted(failed, key=lambda failure: failure.at_s)


def pass_on(cause: Failure, environment: Mapping[str, str]) -> None:
    """Give what a script has noted to whoever has started the launcher, and wants to know it."""
    wanted = environment.get(ERROR_FILE)
    if wanted:
        with suppress(OSError):
            shutil.copyfile(cause.ended.command.files.error, wanted)


def _failure(ended: Ended) -> Failure:
    noted = _noted(ended.command.files.error)
    if isinstance(noted, str):
        return Failure(ended, noted, float("inf"))
    try:
        return Failure(ended, str(noted["message"]), float(noted["extraInfo"]["timestamp"]))
    except (KeyError, TypeError, ValueError):  # another handler may write what it likes
        return Failure(ended, "", float("inf"))


def _noted(file: Path) -> Any:
    """What stands under "message"; empty where there is no such file, or none that can be read."""
    try:
        return read_json(file, MOST_ERROR_BYTES, "the error file")["message"]
    except (BadConfiguration, KeyError, TypeError):
        return ""
