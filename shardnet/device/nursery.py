"""Forks the devices of a local cluster, after importing once what each of them needs.

    python -m shardnet.device.nursery ENDPOINT THREADS LOG_DIR PIPE NAME [NAME ...]

Tells its parent on standard output, a line each: "NAME started PID" and "NAME ended CODE" (minus the signal's number
where it was killed). Ends when all its devices have ended; they do so when the pipe, whose reading end they share,
closes. Runs no kernel and starts no thread before it forks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from pathlib import Path

from shardnet.device import process as worker

NEEDED_BY_SOME = ("transformers.modeling_layers", "transformers.generation.utils")
"""For the families that run on stock blocks. Imported once here; what nobody uses is in memory once for all devices."""


def main() -> int:
    """Fork the devices and wait for them. The exit code is 0."""
    endpoint, threads, log_dir, pipe, *names = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is meant for the devices, and this process sees them end
    worker.import_all(NEEDED_BY_SOME)
    os.set_inheritable(int(pipe), False)  # it is for the devices, which are forked, and not for what these may start
    names_by_pid = {start(name, endpoint, int(threads), Path(log_dir), int(pipe)): name for name in names}
    while names_by_pid:
        pid, status = os.wait()
        name = names_by_pid.pop(pid)
        tell(name, "ended", os.waitstatus_to_exitcode(status))
    return 0


def start(name: str, endpoint: str, threads: int, log_dir: Path, pipe: int) -> int:
    """Fork one device, whose output goes to its log; returns its process id. Returns only in this process."""
    pid = os.fork()
    if pid:
        tell(name, "started", pid)
        return pid
    code = 1
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        log = os.open(log_dir / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        worker.end_with(pipe)
        code = worker.serve_and_report(endpoint, name, threads)
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
