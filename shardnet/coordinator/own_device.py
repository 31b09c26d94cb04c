"""The device of the machine that a coordinator runs on: a process that outlives a coordinator that is killed.

It has a session of its own, so that Ctrl-C in a terminal reaches the coordinator alone, and logs into the state folder,
where a note says which process it is. A coordinator that is started again finds it there, and it comes back to the
door; where none is, the device looks for the door for a minute and ends. It ends with a coordinator that ends in order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from shardnet.cluster.comings import HAS_ENDED
from shardnet.cluster.local_workers import worker_environment
from shardnet.errors import BadConfiguration, UsageError
from shardnet.foreign.plain_files import read_json
from shardnet.process.compute import CPU
from shardnet.process.identity import process_of
from shardnet.process.kept_log import begun_log
from shardnet.process.serving_process import ServingProcess
from shardnet.process.signals import signal_name
from shardnet.process.state_folder import StateFolder
from shardnet.versions import OWN

DEVICE_COMMAND = (sys.executable, "-m", "shardnet.device.process")
NOTE = "own_device.json"
MOST_NOTE_BYTES = 10_000
KEEP_S = 60
"""How long it looks for a door that is gone: no longer than that door, opened again, would wait for it."""


class Wanted(NamedTuple):
    """What the device shall be like."""

    name: str
    threads: int
    most_memory_bytes: int | None = None
    compute: str = CPU
    release: str = OWN.release


class OwnDevice(ServingProcess):
    """A device process. Made by `start_or_find`."""

    def __init__(
        self, name: str, log: Path, process: str, child: subprocess.Popen[bytes] | None, *, begins_at: int = 0
    ) -> None:
        super().__init__(log, process, child, begins_at=begins_at)
        self.name = name

    def how_it_ended(self, device: str) -> str:
        """In words that follow "is lost". Of other devices nothing is known."""
        code = None if self.child is None or device != self.name else self.child.poll()
        if code is None:
            return HAS_ENDED
        if code < 0:
            return f"its process was killed by {signal_name(-code)}"
        reason = f" ({self.last_line})" if self.last_line else ""
        return f"its process ended with exit code {code}{reason}"


def start_or_find(state: StateFolder, endpoint: str, wanted: Wanted) -> OwnDevice:
    """The device of this machine: the one that an earlier coordinator has left where it is as wanted, or a new one.

    Raises:
        UsageError: it cannot be started, or its log cannot be written.
    """
    noted = _noted(state)
    if noted is not None:
        left, process = noted
        found = OwnDevice(left.name, _log_of(state, left), process, None)
        if not found.has_ended and left == wanted:
            return found
        found.close()
    return _start(state, endpoint, wanted)


def _start(state: StateFolder, endpoint: str, wanted: Wanted) -> OwnDevice:
    limit = [] if wanted.most_memory_bytes is None else ["--memory-bytes", str(wanted.most_memory_bytes)]
    arguments = ["--endpoint", endpoint, "--name", wanted.name, "--threads", str(wanted.threads), *limit]
    arguments += ["--compute", wanted.compute]
    log = _log_of(state, wanted)
    try:
        with begun_log(log, "device") as output:
            begins_at = os.fstat(output.fileno()).st_size
            child = subprocess.Popen(
                [*DEVICE_COMMAND, *arguments, "--keep-s", str(KEEP_S)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=worker_environment(os.environ, wanted.threads),
                start_new_session=True,
            )
    except OSError as cause:
        raise UsageError(f"The device of this machine cannot be started: {cause}.") from cause
    device = OwnDevice(wanted.name, log, process_of(child.pid), child, begins_at=begins_at)
    try:
        state.write(NOTE, json.dumps({**wanted._asdict(), "process": device.process}).encode())
    except BaseException as cause:
        device.close()
        if isinstance(cause, OSError):
            raise UsageError(f"{state.path} cannot be written: {cause.strerror}. Make room there.") from cause
        raise
    return device


def _log_of(state: StateFolder, wanted: Wanted) -> Path:
    return state.path / f"{wanted.name}.log"


def _noted(state: StateFolder) -> tuple[Wanted, str] | None:
    """Which device an earlier coordinator has started; None where there is no note, or none that can be read."""
    try:
        note: Any = read_json(state.path / NOTE, MOST_NOTE_BYTES, "the note")
        name, threads, compute = str(note["name"]), int(note["threads"]), str(note["compute"])
        wanted = Wanted(name, threads, note["most_memory_bytes"], compute, str(note.get("release", "")))
        return wanted, str(note["process"])
    except (BadConfiguration, AttributeError, KeyError, TypeError, ValueError):
        return None
