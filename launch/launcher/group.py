"""The processes of this node that run the script: started together, looked at, and ended together.

Each leads a session and a process group of its own, as with torchrun: Ctrl-C reaches the launcher alone, which passes
it on, and a signal to the group reaches whatever a script has started. That is ended, too, where the script itself has
ended before it, which torchrun leaves behind; only what has made a group of its own is left alone. No script outlives a
launcher that is killed: there the system ends it (on Linux), but not what it has started.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

import psutil

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import shortened
from shardnet.launch.launcher.log_files import Files

_END_WITH_PARENT = 1
"""PR_SET_PDEATHSIG."""
_LOOK_EVERY_S = 0.01
KILLED_S = 5.0
"""How long the system may take to end a process that is killed."""


class Command(NamedTuple):
    """What one process is to run."""

    line: list[str]
    environment: Mapping[str, str]
    rank: int
    local_rank: int
    files: Files


class Ended(NamedTuple):
    """A process that has ended."""

    command: Command
    pid: int
    code: int
    """As `subprocess` has it: minus the signal's number where it was killed."""


class ScriptGroup:
    """A context manager: leaving it ends all of them. Made on the main thread: the system takes the end of the thread
    that has started a process for the end of its parent.

    Args:
        shutdown_s: how long they may take to end when they are told to, before they are killed.

    Raises:
        BadRequest: there is no such program, or a log cannot be written.
    """

    def __init__(self, commands: Sequence[Command], shutdown_s: float) -> None:
        self._shutdown_s = shutdown_s
        self._processes: list[tuple[Command, subprocess.Popen[bytes]]] = []
        self._empty: set[int] = set()
        """The process groups of which nobody was left: their numbers may be other programs' by now."""
        try:
            for command in commands:
                self._processes.append((command, _start(command)))
        except BaseException:
            self.end(signal.SIGTERM)
            raise

    def ended(self) -> list[Ended]:
        """Those that have ended by now."""
        self._left()
        codes = [(command, process.pid, process.poll()) for command, process in self._processes]
        return [Ended(command, pid, code) for command, pid, code in codes if code is not None]

    def end(self, number: signal.Signals) -> None:
        """Signal those that are left, with all that they have started; kill who does not end in time, or where this is
        interrupted by a further signal."""
        try:
            self._signal(number)
            self._wait(self._shutdown_s)
        finally:
            self._signal(signal.SIGKILL)
            self._wait(KILLED_S)

    def __enter__(self) -> ScriptGroup:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.end(_signal_behind(error))

    def _left(self) -> list[int]:
        """The process groups of which somebody lives."""
        for _, process in self._processes:
            if process.pid not in self._empty and process.poll() is not None and not _is_anybody_in(process.pid):
                self._empty.add(process.pid)
        return [process.pid for _, process in self._processes if process.pid not in self._empty]

    def _signal(self, number: signal.Signals) -> None:
        for group in self._left():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)

    def _wait(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while self._left() and time.monotonic() < deadline_s:
            time.sleep(_LOOK_EVERY_S)


def _is_anybody_in(group: int) -> bool:
    """Whether a process of the group lives that can be ended. Those that have ended, and for which nobody has waited,
    do not: in a container, say, whose first process waits for none."""
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return any(map(_lives, (pid for pid in psutil.pids() if _group_of(pid) == group)))


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:  # it has ended since
        return None


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def _signal_behind(error: BaseException | None) -> signal.Signals:
    """The signal by which a block was ended, as `process.signals` raises it."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        with suppress(ValueError):
            return signal.Signals(error.code - 128)
    return signal.SIGTERM


def _start(command: Command) -> subprocess.Popen[bytes]:
    files = command.files
    with ExitStack() as closes:
        try:
            out, err = (closes.enter_context(open(path, "wb")) if path else None for path in (files.out, files.err))
        except OSError as cause:
            path = shortened(str(cause.filename))
            raise BadRequest(f"{path} cannot be written: {cause.strerror}. Choose another --log-dir.") from cause
        try:
            return subprocess.Popen(
                command.line,
                env=command.environment,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=_ends_with_parent(os.getpid()),
            )
        except OSError as cause:
            program = shortened(command.line[0])
            raise BadRequest(f"{program} cannot be run: {cause.strerror}. Name a program that can.") from cause


def _ends_with_parent(parent: int) -> Callable[[], None] | None:
    """What a new process does before it runs the script; None where the system knows nothing of the kind.

    Between fork and exec nothing may be imported and no lock be taken: this calls what was looked up before.
    """
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None

    def ask() -> None:
        prctl(_END_WITH_PARENT, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it ended before it was asked
            os._exit(1)

    return ask
