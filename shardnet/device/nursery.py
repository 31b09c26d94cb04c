"""Forks the devices of a local cluster, after importing once what each of them needs.

    python -m shardnet.device.nursery ENDPOINT THREADS LOG_DIR PIPE KEEP_S RESTARTS NAME [NAME ...]

Tells its parent on standard output, a line each: "NAME started PID" and "NAME ended CODE" (minus the signal's number
where it was killed). A device that has failed is forked again, as often as the parent allows for each. Ends when all
its devices have ended; they do so when the pipe, whose reading end they share, closes. Runs no kernel and starts no
thread. One device alone that is not to be started again needs nobody to fork it: this process becomes it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import NamedTuple, NoReturn

from shardnet.device import process as worker
from shardnet.process.late_imports import META_KERNELS

NEEDED_BY_SOME = (META_KERNELS, "transformers.modeling_layers", "transformers.generation.utils")
"""For the families that run on stock blocks. Imported once here; what nobody uses is in memory once for all devices, of
which one alone would have nothing."""


class Wanted(NamedTuple):
    """What all the devices have in common."""

    endpoint: str
    threads: int
    log_dir: Path
    pipe: int
    keep_s: float
    """How long each looks for a door that is gone; 0 for one that does not."""


def main() -> int:
    """Fork the devices and wait for them. The exit code is 0."""
    endpoint, threads, log_dir, pipe, keep_s, restarts, *names = sys.argv[1:]
    wanted = Wanted(endpoint, int(threads), Path(log_dir), int(pipe), float(keep_s))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is meant for the devices, and this process sees them end
    has_transformers = importlib.util.find_spec("transformers") is not None
    worker.import_all(NEEDED_BY_SOME if has_transformers and len(names) > 1 else ())  # one alone imports it by need
    os.set_inheritable(wanted.pipe, False)  # it is for the devices, which are forked, and not for what these may start
    if len(names) == 1 and restarts == "0":
        tell(names[0], "started", os.getpid())
        become(names[0], wanted)
    names_by_pid = {start(name, wanted): name for name in names}
    left = dict.fromkeys(names, int(restarts))
    while names_by_pid:
        pid, status = os.wait()
        name, code = names_by_pid.pop(pid), os.waitstatus_to_exitcode(status)
        tell(name, "ended", code)
        if code != 0 and left[name] > 0 and not is_closed(wanted.pipe):
            left[name] -= 1
            names_by_pid[start(name, wanted)] = name
    return 0


def is_closed(pipe: int) -> bool:
    """Whether the parent has closed its end, or is gone: nothing is ever written to it."""
    return bool(select.select([pipe], [], [], 0)[0])


def start(name: str, wanted: Wanted) -> int:
    """Fork one device; returns its process id. Returns only in this process."""
    pid = os.fork()
    if pid == 0:
        become(name, wanted)
    tell(name, "started", pid)
    return pid


def become(name: str, wanted: Wanted) -> NoReturn:
    """Be a device, whose output goes to its log, until it is over; this process ends with it."""
    code = 1
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        log = os.open(wanted.log_dir / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        worker.end_with(wanted.pipe)
        code = worker.serve_and_report(wanted.endpoint, name, wanted.threads, wanted.keep_s)
    except Exception:  # a log that cannot be opened, say; Python itself would have no time to print it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def tell(name: str, event: str, number: int) -> None:
    """Tell the parent. When it is gone, nobody needs to know."""
    with contextlib.suppress(BrokenPipeError):
        print(name, event, number, flush=True)


if __name__ == "__main__":
    os._exit(main())  # nothing is left to be tidied up, and Python would take a second or more over torch
