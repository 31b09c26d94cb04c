"""The gate of one host: carries between it and the other hosts of a cluster, through TLS.

    python -m shardnet.gate.process --folder DIR [--hub] [--listen HOST:PORT ... [--or-next]] [--ready-fd FD]
        [--end-with FD]

With `--hub` it is that of the coordinator's host, and DIR is the state folder of `shardnet up`: it lets in who was
invited. Without, DIR is where `shardnet join` has written down what this host was given, and the gate offers there the
sockets that the coordinator's folder has. Neither imports torch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from shardnet.gate.begun import Begun
from shardnet.process.ending import orderly_exit
from shardnet.process.standard_streams import open_closed
from shardnet.versions import OWN

MOST_FILES = 2**16


def main() -> int:
    """Carry until SIGTERM; the exit code is 0 then."""
    open_closed()
    parser = argparse.ArgumentParser(prog="shardnet-gate", description="Carry between this host and others.")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="the state folder here")
    parser.add_argument("--listen", action="append", default=[], metavar="HOST:PORT", help="where other hosts come in")
    parser.add_argument("--or-next", action="store_true", help="where a port is taken, the next free one does, too")
    parser.add_argument("--hub", action="store_true", help="this is the coordinator's host: let in who was invited")
    parser.add_argument("--ready-fd", type=int, metavar="FD", help="an inherited pipe, told when it carries")
    parser.add_argument("--end-with", type=int, metavar="FD", help="end when this inherited pipe is closed")
    arguments = parser.parse_args()
    _let_open_files()
    try:
        with orderly_exit(debug=False):
            asyncio.run(_carry(arguments, _beginning(arguments)))
    except SystemExit as end:
        assert isinstance(end.code, int), end.code
        return end.code
    return 0


def _let_open_files() -> None:
    """As many as the system lets a process have: each connection of a member takes some, on this host and on others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _beginning(arguments: argparse.Namespace) -> Callable[[ExitStack], Awaitable[Begun]]:
    """Each kind of gate imports what it needs itself, and nothing else."""
    if arguments.hub:
        from shardnet.gate import as_hub

        return partial(as_hub.begin, arguments.folder, arguments.listen, arguments.or_next)
    from shardnet.gate import as_outpost

    return partial(as_outpost.begin, as_outpost.identity_there(arguments.folder), arguments.listen)


async def _carry(arguments: argparse.Namespace, begin: Callable[[ExitStack], Awaitable[Begun]]) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    if arguments.end_with is not None:
        loop.add_reader(arguments.end_with, over.set)
    with ExitStack() as ends:
        begun = await begin(ends)
        _be_ready(arguments.ready_fd, begun.told)
        carrying = asyncio.ensure_future(begun.carrying)
        until: list[asyncio.Future[Any]] = [carrying, asyncio.ensure_future(over.wait())]
        await asyncio.wait(until, return_when=asyncio.FIRST_COMPLETED)
        if carrying.done():
            carrying.result()


def _be_ready(pipe: int | None, what: dict[str, Any]) -> None:
    if pipe is not None:
        said = {"wire": OWN.wire, "release": OWN.release, **what}
        with suppress(OSError):
            os.write(pipe, json.dumps(said).encode() + b"\n")
            os.close(pipe)


if __name__ == "__main__":
    sys.exit(main())
