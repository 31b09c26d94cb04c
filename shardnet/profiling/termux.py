"""Runs commands of Termux: some wait for ever, now and then or where an app is missing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from typing import NamedTuple


class Ended(NamedTuple):
    """A command that has ended by itself."""

    exit_code: int
    printed: str


def run_command(name: str, timeout_s: float) -> Ended | None:
    """Run it without options. None where there is none, or it does not end in time: then it is ended, with all that it
    has started. So it is, too, where whoever waits for it is interrupted."""
    command = shutil.which(name)
    if command is None:
        return None
    try:
        running = subprocess.Popen(
            [command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is not meant for it
        )
    except OSError:
        return None
    with running:
        try:
            printed, _ = running.communicate(timeout=timeout_s)
        except BaseException as error:
            with suppress(ProcessLookupError):  # a script, which waits for a program of its own
                os.killpg(running.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                return None
            raise
    return Ended(running.returncode, printed)
