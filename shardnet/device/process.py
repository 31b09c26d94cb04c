"""The process of one device: joins the cluster, and serves until it is told to leave.

    python -m shardnet.device.process --endpoint ENDPOINT --name NAME [--threads N] [--end-with FD]

Standard input means nothing to it: it may be a terminal, a pipe, /dev/null (nohup, systemd) or closed. A process that
starts a device and must not be outlived by it hands down the reading end of a pipe and keeps the other end open.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import threading
from typing import NoReturn

from shardnet.device.allocator import settle_allocator
from shardnet.foreign.quoting import MOST_DIGITS, quoted
from shardnet.process.ending import orderly_exit
from shardnet.process.signals import end_at_once
from shardnet.process.standard_streams import open_closed, say
from shardnet.process.surroundings import require_address_space

JOIN_S = 60.0
MOST_THREADS = 1024
"""Of computing, for one device. Beyond any machine: a slip of the keys must not fill the system with threads."""
NEEDED = (
    "torch",
    "transformers.modeling_layers",
    "transformers.generation.utils",
    "shardnet.transport.rpc.transport",
    "shardnet.device.worker",
)


class _Parser(argparse.ArgumentParser):
    """One sentence for a wrong option, as every command has it."""

    def error(self, message: str) -> NoReturn:
        say(f"shardnet-worker: {message}.")
        raise SystemExit(2)


def main() -> int:
    """Serve as a device; the exit code is 0 after an orderly goodbye."""
    end_at_once()
    open_closed()
    parser = _Parser(prog="shardnet-worker", description="Serve as one device of a shardnet cluster.")
    parser.add_argument(
        "--endpoint", required=True, metavar="ENDPOINT", help="of the cluster's door, HOST:PORT or unix:PATH"
    )
    parser.add_argument("--name", required=True, help="the name of this device, unique in the cluster")
    parser.add_argument("--threads", type=_count, default=1, help="compute threads")
    parser.add_argument("--end-with", type=_pipe, metavar="FD", help="end at once when this inherited pipe is closed")
    arguments = parser.parse_args()
    if arguments.end_with is not None:
        end_with(arguments.end_with)
    return serve_and_report(arguments.endpoint, arguments.name, arguments.threads)


def _count(text: str) -> int:
    is_number = text.isdecimal() and len(text) <= MOST_DIGITS
    if not is_number or not 1 <= int(text) <= MOST_THREADS:
        raise argparse.ArgumentTypeError(f"it must be a whole number from 1 to {MOST_THREADS}, but is {quoted(text)}")
    return int(text)


def _pipe(text: str) -> int:
    try:
        os.fstat(int(text))
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(f"it must be the number of an open file, but is {quoted(text)}") from None
    return int(text)


def import_all() -> None:
    """Import what a device needs: most of what its start takes."""
    for module in NEEDED:
        importlib.import_module(module)


def serve_and_report(endpoint: str, name: str, threads: int) -> int:
    """Be a device until it is over. Whatever else ends it is one sentence on standard error; returns the exit code."""
    try:
        with orderly_exit(debug=False):
            require_address_space()
            serve(endpoint, name, threads)
    except SystemExit as end:
        assert isinstance(end.code, int), end.code
        return end.code
    return 0


def serve(endpoint: str, name: str, threads: int) -> None:
    """Be a device until it is over. One that the others have struck off, as it was silent for too long, joins anew.

    Raises:
        ShardnetError: it could not join, or lost the cluster.
    """
    settle_allocator()
    import_all()

    import torch

    from shardnet.device.worker import Worker
    from shardnet.process.cache_folder import cache_folder
    from shardnet.transport import RpcTransport

    torch.set_num_threads(threads)
    is_over = False
    while not is_over:
        with Worker(threads, cache_folder()) as worker:
            worker.warm_up()
            here = RpcTransport.join(endpoint, name, timeout_s=JOIN_S, prepare=worker.attach)
            with here:
                here.on_struck_off(worker.left.set)
                worker.left.wait()
        is_over = not here.struck_off.is_set()


def end_with(pipe: int) -> None:
    """End this process at once when the other end of `pipe` closes. A watching thread: works wherever pipes do."""

    def watch() -> None:
        while os.read(pipe, 1024):
            pass
        os._exit(0)

    threading.Thread(target=watch, name="shardnet-parent-watch", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
