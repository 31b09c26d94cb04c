"""Device processes on this machine: started together, and none of them outlives the `with` block or its parent.

They are forked by a nursery (`shardnet/device/nursery.py`), a process that has imported what they need: three devices
then start in the time of one. Every process inherits the reading end of a pipe and ends itself when that closes; so
they end even when the parent is killed and no line of its Python runs any more. Knows nothing of clusters: see
`shardnet.cluster.cluster`.
"""

from __future__ import annotations

import fcntl
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from shardnet.errors import BadRequest
from shardnet.process.forks import Birthplace
from shardnet.process.scratch import ScratchFolder
from shardnet.process.signals import signal_name

MOST_LOCAL_DEVICES = 1024
"""Beyond any machine: a slip of the keys must not fill the memory with names."""

NURSERY_COMMAND = (sys.executable, "-m", "shardnet.device.nursery")

OPEN_FILES, OPEN_FILES_PER_DEVICE = 64, 8
"""Of the process that has local devices: 54 with three, 94 with eight."""
LOGS = "shardnet-logs-"
NURSERY = "nursery"
"""Whose log has what is printed before there is a device."""
NEWS = re.compile(r"(?P<name>\S+) (?P<event>started|ended) (?P<number>-?\d+)")
"""A line of the nursery's."""
GOODBYE_S = 1.5
"""How long a process may take to end by itself once the pipe is closed."""
LOOK_EVERY_S = 0.01
TERMINATE_S = 0.7
"""How long it may take after SIGTERM, before SIGKILL."""


def require_open_files(num_devices: int) -> None:
    """See that this process may open what it needs: torch ends a process that runs out of them, without a sentence.

    Raises:
        BadRequest: it may not.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = OPEN_FILES + num_devices * OPEN_FILES_PER_DEVICE
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise BadRequest(
            f"this process may have {limit} open files (ulimit -n), and with {num_devices} local devices it takes up "
            f"to {needed}. Raise the limit, such as by ulimit -n {max(1024, needed)}, or use fewer devices."
        )


class LocalWorkers:
    """One process per device name, all meeting at `endpoint`. A context manager: leaving it ends every process.

    Entering it raises `BadRequest` where the logs cannot be written, or too few files may be open.

    Args:
        endpoint: of the door where the devices meet, "unix:PATH" or "HOST:PORT"; it is open already.
        names: the devices, one process each.
        threads: compute threads of each process.
        log_dir: where each process's output goes, as NAME.log; a temporary folder, removed at the end, if None.
        keep_s: how long each looks for a door that is gone, and ends then; 0 does neither.
        most_restarts: how often each is started again that has failed.
    """

    def __init__(
        self,
        endpoint: str,
        names: Sequence[str],
        threads: int,
        log_dir: Path | None = None,
        keep_s: int = 0,
        most_restarts: int = 0,
    ) -> None:
        self.endpoint = endpoint
        self.names = tuple(names)
        self.threads = threads
        self._keep_s = keep_s
        self._most_restarts = most_restarts
        self._remove_logs: Callable[[], object] = lambda: None
        if log_dir is None:
            logs = ScratchFolder(LOGS, Path(tempfile.gettempdir()))
            log_dir = logs.path
            self._remove_logs = weakref.finalize(self, _remove, logs, Birthplace("this folder"))
        self.log_dir = log_dir
        self.on_ended: Callable[[], object] = lambda: None
        """Called when a device's process has ended or started, on the thread that has heard of it."""
        self._pids: dict[str, int] = {}
        self._codes: dict[str, int] = {}
        self._nursery: subprocess.Popen[str] | None = None
        self._pipe: int | None = None
        """The writing end. Nothing is ever written to it: it closes when this process ends, in whatever way."""
        self._listener = threading.Thread(target=self._listen, name="shardnet-nursery", daemon=True)

    def __enter__(self) -> LocalWorkers:
        try:
            require_open_files(len(self.names))
            self._make_log_dir()
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each device that has been started."""
        return dict(self._pids)

    def poll(self) -> list[tuple[str, int]]:
        """The devices whose process has ended and was not started again, each with its return code (minus the signal's
        number if killed)."""
        codes = dict(self._codes)
        return [(name, codes[name]) for name in self.names if name in codes]

    @property
    def is_over(self) -> bool:
        """Whether all have ended, and none is to be started again."""
        return not self._listener.is_alive()

    def log_tail(self, name: str, num_lines: int = 20) -> str:
        """The last lines that a device's process printed, or the nursery."""
        try:
            lines = self._log_of(name).read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-num_lines:])

    def how_it_ended(self, name: str) -> str:
        """In words, how a device's process ended: "was killed by SIGKILL", "ended with exit code 1 (its last line)"."""
        code = self._codes.get(name)
        if code is None:
            return "is still running"
        if code < 0:
            return f"was killed by {signal_name(-code)}"
        speaker = name if name in self._pids else NURSERY
        last_line = self.log_tail(speaker, num_lines=1).strip().removeprefix("shardnet: ")
        return f"ended with exit code {code}" + (f" ({last_line})" if last_line else "")

    def close(self) -> None:
        """End every process within about 3 s: close the pipe, then SIGTERM, then SIGKILL. Safe to call twice."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe)
        nursery = self._nursery
        try:
            if nursery is not None:
                self._let_end(nursery)
        finally:
            self._remove_logs()

    def _let_end(self, nursery: subprocess.Popen[str]) -> None:
        try:
            if not self._ends_within(GOODBYE_S):
                self._signal_all(signal.SIGTERM)
                self._ends_within(TERMINATE_S)
        finally:  # after Ctrl-C, too: whoever is left, also where the nursery is gone already
            self._signal_all(signal.SIGKILL)
            if self._listener.ident is not None:
                self._listener.join()
            nursery.wait()  # buries it: the listener has asked how it ended
            assert nursery.stdout is not None
            nursery.stdout.close()
            self._nursery = None

    def _log_of(self, name: str) -> Path:
        return self.log_dir / f"{name}.log"

    def _make_log_dir(self) -> None:
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            self._log_of(NURSERY).touch()
            for name in self.names:  # what an earlier run has left must not pass for this one's
                with suppress(FileNotFoundError):
                    os.truncate(self._log_of(name), 0)
        except OSError as error:
            raise BadRequest(
                f"the logs of the devices cannot be written to {self.log_dir}: {error.strerror}. Choose another folder."
            ) from error

    def _start(self) -> None:
        reading_end, self._pipe = inherited_pipe()
        limits = (self.threads, self.log_dir, reading_end, self._keep_s, self._most_restarts)
        with os.fdopen(reading_end), open(self._log_of(NURSERY), "wb") as log:
            self._nursery = subprocess.Popen(
                [*NURSERY_COMMAND, self.endpoint, *map(str, limits), *self.names],
                pass_fds=(reading_end,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                errors="replace",
                env=worker_environment(os.environ, self.threads),
                start_new_session=True,  # Ctrl-C in the terminal reaches the parent only, which ends these in order
            )
        os.register_at_fork(after_in_child=partial(_let_go, weakref.ref(self)))
        self._listener.start()

    def _listen(self) -> None:
        """Hear from the nursery of every start and end. If it ends itself, so have its devices, for all we know."""
        nursery = self._nursery
        assert nursery is not None and nursery.stdout is not None
        for line in nursery.stdout:
            news = NEWS.fullmatch(line.rstrip())
            if news is not None:  # else a library has printed it
                self._note(news["name"], int(news["number"]), has_started=news["event"] == "started")
                self.on_ended()
        code = _code_of(nursery.pid)
        for name in self.names:
            self._codes.setdefault(name, code)
        self.on_ended()

    def _note(self, name: str, number: int, *, has_started: bool) -> None:
        if has_started:
            self._pids[name] = number
            self._codes.pop(name, None)
        else:
            self._codes[name] = number

    def _ends_within(self, timeout_s: float) -> bool:
        """Whether the nursery has ended by then. It is left unburied: `_signal_all` needs its number."""
        assert self._nursery is not None
        deadline = time.monotonic() + timeout_s
        while _ended(self._nursery.pid, os.WNOHANG) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_EVERY_S)
        return True

    def _signal_all(self, number: signal.Signals) -> None:
        """Signal the nursery and all its devices: they are one process group.

        The number of the group is the nursery's. The system gives it to nobody else before the nursery is buried
        (`wait`), and that comes after the last signal.
        """
        assert self._nursery is not None
        if self._nursery.returncode is not None:
            return  # buried by a `close` that Ctrl-C has broken off
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._nursery.pid, number)


def _ended(pid: int, how: int = 0) -> tuple[int, int] | None:
    """How a child ended, (code, status), and leave it to be buried. Waits for that, or with WNOHANG may be None."""
    try:
        if not hasattr(os, "waitid"):
            return _buried(pid, how)
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | how)
    except ChildProcessError:  # whoever ignores SIGCHLD has the system bury it
        return os.CLD_EXITED, 0
    return None if found is None else (found.si_code, found.si_status)


def _buried(pid: int, how: int) -> tuple[int, int] | None:
    """The same where Python cannot leave it (macOS, before 3.13). Who asks once more hears of code 0."""
    found, status = os.waitpid(pid, how)
    code = os.waitstatus_to_exitcode(status)
    if found == 0:
        return None
    return (os.CLD_EXITED, code) if code >= 0 else (os.CLD_KILLED, -code)


def _code_of(pid: int) -> int:
    """Wait for a child; its return code as `subprocess` has it: minus the signal's number where it was killed."""
    ended = _ended(pid)
    assert ended is not None
    code, status = ended
    return status if code == os.CLD_EXITED else -status


def _let_go(workers: weakref.ref[LocalWorkers]) -> None:
    """In a forked child of ours: without the pipe's writing end, or the devices would live as long as the child."""
    forked = workers()
    if forked is not None:
        pipe, forked._pipe = forked._pipe, None
        if pipe is not None:
            os.close(pipe)


def _remove(logs: ScratchFolder, birthplace: Birthplace) -> None:
    if birthplace.is_here:
        logs.remove()


def inherited_pipe() -> tuple[int, int]:
    """A reading and a writing end, neither of which takes the number of a standard stream that is closed here."""
    ends = os.pipe()
    try:
        reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends)
    finally:
        for end in ends:
            os.close(end)
    return reading, writing


def worker_environment(environment: Mapping[str, str], threads: int) -> dict[str, str]:
    """What a device process finds in its environment: its threads, no chatter, and no modules of the current folder."""
    return {
        **environment,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",  # numpy's; its threads would start on import, and there shall be one when we fork
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_CPP_LOG_LEVEL": environment.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
        "PYTHONIOENCODING": "utf-8",  # what the nursery says is read as that
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
    }
